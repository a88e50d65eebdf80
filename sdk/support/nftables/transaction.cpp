#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <libnftnl/udata.h>

#include <algorithm>
#include <array>

#include "sdk/support/nftables/expressions.hpp"

namespace pintle::nftables {
namespace {

/// More than any single message of ours needs: a rule is a few hundred bytes, elements are sent by kElementsPerMessage.
constexpr size_t kLargestMessage = 32 << 10;
constexpr size_t kElementsPerMessage = 200;
constexpr size_t kLongestComment = NFTNL_UDATA_COMMENT_MAXLEN - 1;
/// What nft keeps with a set about its key.
constexpr uint32_t kNftHostByteOrder = 1, kNftNetworkByteOrder = 2;

using UserData = std::unique_ptr<nftnl_udata_buf, void (*)(const nftnl_udata_buf*)>;

Owned<nftnl_table> table_object(Family family, std::string_view name) {
  Owned<nftnl_table> table(nftnl_table_alloc());
  nftnl_table_set_u32(table.get(), NFTNL_TABLE_FAMILY, static_cast<uint32_t>(family));
  nftnl_table_set_str(table.get(), NFTNL_TABLE_NAME, std::string(name).c_str());
  return table;
}

Owned<nftnl_chain> chain_object(std::string_view table, std::string_view name) {
  Owned<nftnl_chain> chain(nftnl_chain_alloc());
  nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_TABLE, std::string(table).c_str());
  nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_NAME, std::string(name).c_str());
  return chain;
}

Owned<nftnl_rule> rule_object(std::string_view table, std::string_view chain) {
  Owned<nftnl_rule> rule(nftnl_rule_alloc());
  nftnl_rule_set_str(rule.get(), NFTNL_RULE_TABLE, std::string(table).c_str());
  nftnl_rule_set_str(rule.get(), NFTNL_RULE_CHAIN, std::string(chain).c_str());
  return rule;
}

Owned<nftnl_set> set_object(std::string_view table, std::string_view name) {
  Owned<nftnl_set> set(nftnl_set_alloc());
  nftnl_set_set_str(set.get(), NFTNL_SET_TABLE, std::string(table).c_str());
  nftnl_set_set_str(set.get(), NFTNL_SET_NAME, std::string(name).c_str());
  return set;
}

void build_table(nlmsghdr* message, const void* object) {
  nftnl_table_nlmsg_build_payload(message, static_cast<const nftnl_table*>(object));
}
void build_chain(nlmsghdr* message, const void* object) {
  nftnl_chain_nlmsg_build_payload(message, static_cast<const nftnl_chain*>(object));
}
void build_rule(nlmsghdr* message, const void* object) {
  nftnl_rule_nlmsg_build_payload(message, static_cast<nftnl_rule*>(const_cast<void*>(object)));
}
void build_set(nlmsghdr* message, const void* object) {
  nftnl_set_nlmsg_build_payload(message, static_cast<nftnl_set*>(const_cast<void*>(object)));
}
void build_elements(nlmsghdr* message, const void* object) {
  nftnl_set_elems_nlmsg_build_payload(message, static_cast<nftnl_set*>(const_cast<void*>(object)));
}

std::string label(std::string_view verb, Family family, std::string_view table, std::string_view name = {}) {
  std::string text(verb);
  text += " ";
  text += family_name(family);
  text += " ";
  text += table;
  if (!name.empty()) text += " ";
  text += name;
  return text;
}

/// The key behind an interval's last one; nothing behind the very last.
std::optional<Bytes> successor(Bytes key) {
  for (auto byte = key.rbegin(); byte != key.rend(); ++byte) {
    if (++*byte != 0) return key;
  }
  return std::nullopt;
}

void add_element(nftnl_set* set, const Element& element) {
  nftnl_set_elem* item = nftnl_set_elem_alloc();
  nftnl_set_elem_set(item, NFTNL_SET_ELEM_KEY, element.key.data(), static_cast<uint32_t>(element.key.size()));
  if (!element.data.empty()) {
    nftnl_set_elem_set(item, NFTNL_SET_ELEM_DATA, element.data.data(), static_cast<uint32_t>(element.data.size()));
  }
  if (element.verdict) {
    nftnl_set_elem_set_u32(item, NFTNL_SET_ELEM_VERDICT, static_cast<uint32_t>(element.verdict->code));
    if (!element.verdict->chain.empty()) {
      nftnl_set_elem_set_str(item, NFTNL_SET_ELEM_CHAIN, element.verdict->chain.c_str());
    }
  }
  nftnl_set_elem_add(set, item);
  if (element.key_end.empty()) return;
  if (const std::optional<Bytes> end = successor(element.key_end)) {
    nftnl_set_elem* mark = nftnl_set_elem_alloc();
    nftnl_set_elem_set(mark, NFTNL_SET_ELEM_KEY, end->data(), static_cast<uint32_t>(end->size()));
    nftnl_set_elem_set_u32(mark, NFTNL_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
    nftnl_set_elem_add(set, mark);
  }
}

}  // namespace

void Transaction::append(uint16_t type, uint16_t flags, Family family, std::string what, const void* object,
                         void (*build)(nlmsghdr*, const void*)) {
  const size_t start = bytes_.size();
  bytes_.resize(start + kLargestMessage);
  nlmsghdr* message = nftnl_nlmsg_build_hdr(reinterpret_cast<char*>(bytes_.data() + start), type,
                                            static_cast<uint16_t>(family), flags, 0);
  build(message, object);
  bytes_.resize(start + MNL_ALIGN(message->nlmsg_len));
  starts_.push_back(start);
  whats_.push_back(std::move(what));
}

void Transaction::add_table(Family family, std::string_view table) {
  append(NFT_MSG_NEWTABLE, NLM_F_CREATE, family, label("add table", family, table), table_object(family, table).get(),
         build_table);
}

void Transaction::delete_table(Family family, std::string_view table) {
  append(NFT_MSG_DELTABLE, 0, family, label("delete table", family, table), table_object(family, table).get(),
         build_table);
}

void Transaction::remove(Family family, std::string_view table) {
  add_table(family, table);
  delete_table(family, table);
}

void Transaction::replace(const Table& table) {
  remove(table.family, table.name);
  add_table(table.family, table.name);
  // Rules and verdicts of elements name chains, and rules name sets: so first what is named.
  for (const Set& set : table.sets) put_set(table.family, table.name, set);
  for (const Chain& chain : table.chains) {
    add_chain(table.family, table.name, {.name = chain.name, .hook = chain.hook, .rules = {}});
  }
  for (const Set& set : table.sets) add_elements(table.family, table.name, set, set.elements);
  for (const Chain& chain : table.chains) {
    for (const Rule& rule : chain.rules) add_rule(table.family, table.name, chain.name, rule);
  }
}

void Transaction::add_chain(Family family, std::string_view table, const Chain& chain) {
  const Owned<nftnl_chain> object = chain_object(table, chain.name);
  if (chain.hook) {
    nftnl_chain_set_str(object.get(), NFTNL_CHAIN_TYPE, chain.hook->type.c_str());
    nftnl_chain_set_u32(object.get(), NFTNL_CHAIN_HOOKNUM, chain.hook->number);
    nftnl_chain_set_s32(object.get(), NFTNL_CHAIN_PRIO, chain.hook->priority);
    nftnl_chain_set_u32(object.get(), NFTNL_CHAIN_POLICY, chain.hook->policy);
  }
  append(NFT_MSG_NEWCHAIN, NLM_F_CREATE, family, label("add chain", family, table, chain.name), object.get(),
         build_chain);
  for (const Rule& rule : chain.rules) add_rule(family, table, chain.name, rule);
}

void Transaction::delete_chain(Family family, std::string_view table, std::string_view chain) {
  append(NFT_MSG_DELCHAIN, 0, family, label("delete chain", family, table, chain), chain_object(table, chain).get(),
         build_chain);
}

void Transaction::put_rule(uint16_t flags, Family family, std::string_view table, std::string_view chain,
                           const Rule& rule, std::string_view verb) {
  const Owned<nftnl_rule> object = rule_object(table, chain);
  nftnl_rule_set_u32(object.get(), NFTNL_RULE_FAMILY, static_cast<uint32_t>(family));
  std::string what = label(verb, family, table, chain);
  if (!rule.comment.empty()) what += " (" + rule.comment + ")";
  for (const Expression& expression : rule.expressions) {
    const Status status = add_expression(object.get(), expression);
    if (!status && unwritable_) unwritable_ = status.with_context(what);
  }
  if (!rule.comment.empty()) {
    const UserData data(nftnl_udata_buf_alloc(NFT_USERDATA_MAXLEN), nftnl_udata_buf_free);
    nftnl_udata_put_strz(data.get(), NFTNL_UDATA_RULE_COMMENT, rule.comment.substr(0, kLongestComment).c_str());
    nftnl_rule_set_data(object.get(), NFTNL_RULE_USERDATA, nftnl_udata_buf_data(data.get()),
                        nftnl_udata_buf_len(data.get()));
  }
  append(NFT_MSG_NEWRULE, flags, family, std::move(what), object.get(), build_rule);
}

void Transaction::add_rule(Family family, std::string_view table, std::string_view chain, const Rule& rule) {
  put_rule(NLM_F_CREATE | NLM_F_APPEND, family, table, chain, rule, "add rule to");
}

void Transaction::insert_rule(Family family, std::string_view table, std::string_view chain, const Rule& rule) {
  put_rule(NLM_F_CREATE, family, table, chain, rule, "insert rule into");
}

void Transaction::delete_rule(Family family, std::string_view table, std::string_view chain, uint64_t handle) {
  const Owned<nftnl_rule> object = rule_object(table, chain);
  nftnl_rule_set_u64(object.get(), NFTNL_RULE_HANDLE, handle);
  append(NFT_MSG_DELRULE, 0, family, label("delete rule " + std::to_string(handle) + " from", family, table, chain),
         object.get(), build_rule);
}

void Transaction::put_set(Family family, std::string_view table, const Set& set) {
  const Owned<nftnl_set> object = set_object(table, set.name);
  uint32_t flags = set.intervals ? uint32_t{NFT_SET_INTERVAL} : 0;
  nftnl_set_set_u32(object.get(), NFTNL_SET_KEY_TYPE, set.key_type);
  nftnl_set_set_u32(object.get(), NFTNL_SET_KEY_LEN, set.key_size);
  nftnl_set_set_u32(object.get(), NFTNL_SET_ID, static_cast<uint32_t>(starts_.size() + 1));
  if (set.data_type) {
    flags |= NFT_SET_MAP;
    const bool verdicts = *set.data_type == kTypeVerdict;
    nftnl_set_set_u32(object.get(), NFTNL_SET_DATA_TYPE, verdicts ? uint32_t{NFT_DATA_VERDICT} : *set.data_type);
    nftnl_set_set_u32(object.get(), NFTNL_SET_DATA_LEN, verdicts ? 16 : set.data_size);
  }
  nftnl_set_set_u32(object.get(), NFTNL_SET_FLAGS, flags);
  // Only for nft's eyes: without it an interface name is shown from its end.
  const UserData data(nftnl_udata_buf_alloc(NFT_USERDATA_MAXLEN), nftnl_udata_buf_free);
  nftnl_udata_put_u32(data.get(), NFTNL_UDATA_SET_KEYBYTEORDER,
                      set.key_type == kTypeInterfaceName ? kNftHostByteOrder : kNftNetworkByteOrder);
  nftnl_set_set_data(object.get(), NFTNL_SET_USERDATA, nftnl_udata_buf_data(data.get()),
                     nftnl_udata_buf_len(data.get()));
  append(NFT_MSG_NEWSET, NLM_F_CREATE, family, label("add set", family, table, set.name), object.get(), build_set);
}

void Transaction::add_set(Family family, std::string_view table, const Set& set) {
  put_set(family, table, set);
  add_elements(family, table, set, set.elements);
}

void Transaction::delete_set(Family family, std::string_view table, std::string_view set) {
  append(NFT_MSG_DELSET, 0, family, label("delete set", family, table, set), set_object(table, set).get(), build_set);
}

void Transaction::put_elements(uint16_t type, Family family, std::string_view table, const Set& set,
                               std::span<const Element> elements) {
  const bool adds = type == NFT_MSG_NEWSETELEM;
  while (!elements.empty()) {
    const auto part = elements.first(std::min(elements.size(), kElementsPerMessage));
    const Owned<nftnl_set> object = set_object(table, set.name);
    for (const Element& element : part) add_element(object.get(), element);
    append(type, adds ? NLM_F_CREATE : 0, family,
           label(adds ? "add elements to set" : "delete elements from set", family, table, set.name), object.get(),
           build_elements);
    elements = elements.subspan(part.size());
  }
}

void Transaction::add_elements(Family family, std::string_view table, const Set& set,
                               std::span<const Element> elements) {
  put_elements(NFT_MSG_NEWSETELEM, family, table, set, elements);
}

void Transaction::delete_elements(Family family, std::string_view table, const Set& set,
                                  std::span<const Element> elements) {
  put_elements(NFT_MSG_DELSETELEM, family, table, set, elements);
}

Status commit(netlink::Socket& socket, Transaction& transaction) {
  if (!transaction.unwritable_) return transaction.unwritable_;
  if (transaction.empty()) return Status::ok();
  std::array<char, 256> frame;
  std::vector<uint8_t> bytes;
  const uint32_t begin = socket.next_sequence();
  const nlmsghdr* mark = nftnl_batch_begin(frame.data(), begin);
  bytes.insert(bytes.end(), frame.data(), frame.data() + mark->nlmsg_len);
  const uint32_t first = begin + 1;
  const uint32_t last = begin + static_cast<uint32_t>(transaction.starts_.size());
  for (const size_t start : transaction.starts_) {
    auto* message = reinterpret_cast<nlmsghdr*>(transaction.bytes_.data() + start);
    message->nlmsg_seq = socket.next_sequence();
    // One acknowledgement, of the last operation: it comes when the whole has been applied or given up.
    if (message->nlmsg_seq == last) message->nlmsg_flags |= NLM_F_ACK;
  }
  bytes.insert(bytes.end(), transaction.bytes_.begin(), transaction.bytes_.end());
  mark = nftnl_batch_end(frame.data(), socket.next_sequence());
  bytes.insert(bytes.end(), frame.data(), frame.data() + mark->nlmsg_len);

  Status result;
  const Status failure = socket.exchange(bytes, [&](const nlmsghdr& message) {
    if (message.nlmsg_type != NLMSG_ERROR) return false;
    if (message.nlmsg_seq == begin) {
      const Status refused =
          netlink::status_of_answer(message, "commit nftables transaction of " + transaction.whats_.front());
      if (!refused) result = refused;
      return !refused;
    }
    const uint32_t index = message.nlmsg_seq - first;
    if (index >= transaction.whats_.size()) return false;
    if (result) result = netlink::status_of_answer(message, "nftables: " + transaction.whats_[index]);
    return message.nlmsg_seq == last;
  });
  return failure ? result : failure.with_context("commit nftables transaction");
}

}  // namespace pintle::nftables
