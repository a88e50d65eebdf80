#include <libnftnl/chain.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>

#include <algorithm>
#include <cstring>

#include "sdk/support/nftables/expressions.hpp"

namespace pintle::nftables {
namespace {

using netlink::Attributes;
using netlink::Batch;
using netlink::Socket;

constexpr uint16_t kind(uint16_t message) { return static_cast<uint16_t>(NFNL_SUBSYS_NFTABLES << 8 | message); }

nfgenmsg header_of(Family family) {
  return {.nfgen_family = static_cast<uint8_t>(family), .version = NFNETLINK_V0, .res_id = 0};
}

/// A dump restricted to a table, and to a chain or set of it, by the attributes that the kind of message has for them.
Status dump(Socket& socket, uint16_t message, Family family,
            const std::vector<std::pair<uint16_t, std::string>>& filter, const std::string& what,
            const Socket::OnMessage& on_message) {
  Batch request;
  request.begin(kind(message), NLM_F_DUMP, header_of(family), what);
  for (const auto& [attribute, text] : filter) request.put_text(attribute, text);
  return socket.query(request, on_message);
}

std::string text_or_empty(const char* text) { return text ? text : ""; }

Chain read_chain(const nftnl_chain* object) {
  Chain chain{.name = text_or_empty(nftnl_chain_get_str(object, NFTNL_CHAIN_NAME)), .hook = {}, .rules = {}};
  if (nftnl_chain_is_set(object, NFTNL_CHAIN_HOOKNUM)) {
    chain.hook = Hook{.type = text_or_empty(nftnl_chain_get_str(object, NFTNL_CHAIN_TYPE)),
                      .number = nftnl_chain_get_u32(object, NFTNL_CHAIN_HOOKNUM),
                      .priority = nftnl_chain_get_s32(object, NFTNL_CHAIN_PRIO),
                      .policy = nftnl_chain_get_u32(object, NFTNL_CHAIN_POLICY)};
  }
  return chain;
}

Set read_set(const nftnl_set* object) {
  Set set{.name = text_or_empty(nftnl_set_get_str(object, NFTNL_SET_NAME)),
          .key_type = nftnl_set_get_u32(object, NFTNL_SET_KEY_TYPE),
          .key_size = nftnl_set_get_u32(object, NFTNL_SET_KEY_LEN),
          .intervals = (nftnl_set_get_u32(object, NFTNL_SET_FLAGS) & NFT_SET_INTERVAL) != 0,
          .data_type = {},
          .elements = {}};
  if (nftnl_set_get_u32(object, NFTNL_SET_FLAGS) & NFT_SET_MAP) {
    const uint32_t type = nftnl_set_get_u32(object, NFTNL_SET_DATA_TYPE);
    set.data_type = type == NFT_DATA_VERDICT ? uint32_t{kTypeVerdict} : type;
    set.data_size = nftnl_set_get_u32(object, NFTNL_SET_DATA_LEN);
  }
  return set;
}

Bytes bytes_of(nftnl_set_elem* item, uint16_t attribute) {
  if (!nftnl_set_elem_is_set(item, attribute)) return {};
  uint32_t size = 0;
  const auto* bytes = static_cast<const uint8_t*>(nftnl_set_elem_get(item, attribute, &size));
  return {bytes, bytes + size};
}

struct Mark {
  Element element;
  bool is_end;
};

void read_elements(const nftnl_set* object, std::vector<Mark>& marks) {
  nftnl_set_elems_iter* iterator = nftnl_set_elems_iter_create(object);
  while (nftnl_set_elem* item = nftnl_set_elems_iter_next(iterator)) {
    Element element{.key = bytes_of(item, NFTNL_SET_ELEM_KEY),
                    .key_end = bytes_of(item, NFTNL_SET_ELEM_KEY_END),
                    .data = bytes_of(item, NFTNL_SET_ELEM_DATA),
                    .verdict = {}};
    if (nftnl_set_elem_is_set(item, NFTNL_SET_ELEM_VERDICT)) {
      element.verdict = Verdict{.code = static_cast<int32_t>(nftnl_set_elem_get_u32(item, NFTNL_SET_ELEM_VERDICT)),
                                .chain = text_or_empty(nftnl_set_elem_get_str(item, NFTNL_SET_ELEM_CHAIN))};
    }
    const bool is_end = nftnl_set_elem_is_set(item, NFTNL_SET_ELEM_FLAGS) &&
                        (nftnl_set_elem_get_u32(item, NFTNL_SET_ELEM_FLAGS) & NFT_SET_ELEM_INTERVAL_END) != 0;
    marks.push_back({std::move(element), is_end});
  }
  nftnl_set_elems_iter_destroy(iterator);
}

/// The kernel keeps an interval as two elements: its first key, and a mark on the first key behind it.
std::vector<Element> join_intervals(std::vector<Mark> marks) {
  std::sort(marks.begin(), marks.end(), [](const Mark& left, const Mark& right) {
    return left.element.key != right.element.key ? left.element.key < right.element.key : left.is_end > right.is_end;
  });
  std::vector<Element> elements;
  for (size_t i = 0; i < marks.size(); ++i) {
    if (marks[i].is_end) continue;
    Element element = std::move(marks[i].element);
    if (i + 1 < marks.size()) {
      element.key_end = marks[i + 1].element.key;
      for (auto byte = element.key_end.rbegin(); byte != element.key_end.rend(); ++byte) {
        if ((*byte)-- != 0) break;
      }
    } else {
      element.key_end.assign(element.key.size(), 0xff);
    }
    elements.push_back(std::move(element));
  }
  return elements;
}

Status read_elements(Socket& socket, Family family, const std::string& table, Set& set) {
  std::vector<Mark> marks;
  const Status status =
      dump(socket, NFT_MSG_GETSETELEM, family, {{NFTA_SET_ELEM_LIST_TABLE, table}, {NFTA_SET_ELEM_LIST_SET, set.name}},
           "list elements of set " + table + " " + set.name, [&](const nlmsghdr& message) {
             const Owned<nftnl_set> object(nftnl_set_alloc());
             if (nftnl_set_elems_nlmsg_parse(&message, object.get()) == 0) read_elements(object.get(), marks);
           });
  if (!status) return status;
  if (set.intervals) {
    set.elements = join_intervals(std::move(marks));
  } else {
    for (Mark& mark : marks) set.elements.push_back(std::move(mark.element));
  }
  return Status::ok();
}

Status read_contents(Socket& socket, Table& table) {
  Status status = dump(socket, NFT_MSG_GETCHAIN, table.family, {{NFTA_CHAIN_TABLE, table.name}},
                       "list chains of " + table.name, [&](const nlmsghdr& message) {
                         const Owned<nftnl_chain> object(nftnl_chain_alloc());
                         if (nftnl_chain_nlmsg_parse(&message, object.get()) != 0) return;
                         // Filtering by table is younger than some kernels that we run on.
                         if (text_or_empty(nftnl_chain_get_str(object.get(), NFTNL_CHAIN_TABLE)) != table.name) return;
                         table.chains.push_back(read_chain(object.get()));
                       });
  if (!status) return status;
  status = dump(socket, NFT_MSG_GETSET, table.family, {{NFTA_SET_TABLE, table.name}}, "list sets of " + table.name,
                [&](const nlmsghdr& message) {
                  const Owned<nftnl_set> object(nftnl_set_alloc());
                  if (nftnl_set_nlmsg_parse(&message, object.get()) == 0) table.sets.push_back(read_set(object.get()));
                });
  for (Set& set : table.sets) {
    if (status) status = read_elements(socket, table.family, table.name, set);
  }
  if (!status) return status;
  return dump(socket, NFT_MSG_GETRULE, table.family, {{NFTA_RULE_TABLE, table.name}}, "list rules of " + table.name,
              [&](const nlmsghdr& message) {
                const Owned<nftnl_rule> object(nftnl_rule_alloc());
                if (nftnl_rule_nlmsg_parse(&message, object.get()) != 0) return;
                const std::string chain = text_or_empty(nftnl_rule_get_str(object.get(), NFTNL_RULE_CHAIN));
                const auto found = std::find_if(table.chains.begin(), table.chains.end(),
                                                [&](const Chain& candidate) { return candidate.name == chain; });
                if (found != table.chains.end()) found->rules.push_back(read_rule(object.get()));
              });
}

/// `look` begins anew when a change interrupts it.
template <class Look>
Status look_until_whole(const Look& look) {
  Status status;
  for (int attempt = 0; attempt < 10; ++attempt) {
    status = look();
    if (status.code() != Code::aborted) break;
  }
  return status;
}

}  // namespace

Result<std::optional<Table>> read_table(Socket& socket, Family family, const std::string& name) {
  Status status;
  for (int attempt = 0; attempt < 10; ++attempt) {
    Batch request;
    request.begin(kind(NFT_MSG_GETTABLE), 0, header_of(family), "look up table " + name);
    request.put_text(NFTA_TABLE_NAME, name);
    status = socket.query(request, [](const nlmsghdr&) {});
    if (status.code() == Code::not_found) return std::optional<Table>();
    Table table{.family = family, .name = name, .sets = {}, .chains = {}};
    if (status) status = read_contents(socket, table);
    if (status) return std::optional<Table>(std::move(table));
    // A set or the table that vanished between two questions, or a dump that a change interrupted: look again.
    if (status.code() != Code::aborted && status.code() != Code::not_found && status.code() != Code::cancelled) break;
  }
  return status;
}

Result<std::vector<BaseChain>> list_base_chains(Socket& socket) {
  std::vector<BaseChain> chains;
  const auto keep = [&](const nlmsghdr& message) {
    const Owned<nftnl_chain> object(nftnl_chain_alloc());
    if (nftnl_chain_nlmsg_parse(&message, object.get()) != 0) return;
    Chain chain = read_chain(object.get());
    const auto family = static_cast<Family>(nftnl_chain_get_u32(object.get(), NFTNL_CHAIN_FAMILY));
    if (!chain.hook || family == Family::netdev) return;
    chains.push_back(
        {family, text_or_empty(nftnl_chain_get_str(object.get(), NFTNL_CHAIN_TABLE)), chain.name, *chain.hook});
  };
  const Status status = look_until_whole([&] {
    chains.clear();
    return dump(socket, NFT_MSG_GETCHAIN, static_cast<Family>(NFPROTO_UNSPEC), {}, "list chains", keep);
  });
  if (!status) return status;
  return chains;
}

Result<std::vector<Rule>> list_rules(Socket& socket, Family family, const std::string& table,
                                     const std::string& chain) {
  std::vector<Rule> rules;
  const auto keep = [&](const nlmsghdr& message) {
    const Owned<nftnl_rule> object(nftnl_rule_alloc());
    if (nftnl_rule_nlmsg_parse(&message, object.get()) == 0) rules.push_back(read_rule(object.get()));
  };
  const Status status = look_until_whole([&] {
    rules.clear();
    return dump(socket, NFT_MSG_GETRULE, family, {{NFTA_RULE_TABLE, table}, {NFTA_RULE_CHAIN, chain}},
                "list rules of " + table + " " + chain, keep);
  });
  if (!status) return status;
  return rules;
}

std::optional<Change> parse_change(const nlmsghdr& message) {
  if (message.nlmsg_type >> 8 != NFNL_SUBSYS_NFTABLES) return std::nullopt;
  const auto* header = netlink::payload_header<nfgenmsg>(message);
  const auto type = static_cast<uint16_t>(message.nlmsg_type & 0xff);
  if (!header || type == NFT_MSG_NEWGEN) return std::nullopt;
  // The table's name is attribute 1 of every kind of object (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, ...).
  const std::string table = Attributes(message, sizeof *header).text(NFTA_TABLE_NAME);
  return Change{.type = type, .family = static_cast<Family>(header->nfgen_family), .table = table};
}

}  // namespace pintle::nftables
