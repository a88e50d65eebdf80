#include "sdk/support/nftables/expressions.hpp"

#include <libnftnl/chain.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <libnftnl/udata.h>
#include <linux/netfilter/nf_nat.h>

#include <cstring>

namespace pintle::nftables {
namespace {

Bytes data_of(const nftnl_expr* expression, uint16_t attribute) {
  uint32_t size = 0;
  const auto* bytes = static_cast<const uint8_t*>(nftnl_expr_get(expression, attribute, &size));
  return bytes ? Bytes(bytes, bytes + size) : Bytes();
}

std::string text_of(const nftnl_expr* expression, uint16_t attribute) {
  const char* text = nftnl_expr_get_str(expression, attribute);
  return text ? text : "";
}

std::optional<uint32_t> optional_of(const nftnl_expr* expression, uint16_t attribute) {
  if (!nftnl_expr_is_set(expression, attribute)) return std::nullopt;
  return nftnl_expr_get_u32(expression, attribute);
}

void set_data(nftnl_expr* expression, uint16_t attribute, const Bytes& bytes) {
  nftnl_expr_set(expression, attribute, bytes.data(), static_cast<uint32_t>(bytes.size()));
}

/// Writes one kind of expression each into a new libnftnl expression of its name.
struct Writer {
  nftnl_expr* make(const char* name) { return made = nftnl_expr_alloc(name); }

  void operator()(const Meta& meta) {
    nftnl_expr* e = make("meta");
    nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, meta.key);
    nftnl_expr_set_u32(e, NFTNL_EXPR_META_DREG, meta.to);
  }
  void operator()(const Payload& payload) {
    nftnl_expr* e = make("payload");
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_DREG, payload.to);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE, payload.base);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, payload.offset);
    nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, payload.length);
  }
  void operator()(const Conntrack& conntrack) {
    nftnl_expr* e = make("ct");
    nftnl_expr_set_u32(e, NFTNL_EXPR_CT_KEY, conntrack.key);
    nftnl_expr_set_u32(e, NFTNL_EXPR_CT_DREG, conntrack.to);
  }
  void operator()(const Fib& fib) {
    nftnl_expr* e = make("fib");
    nftnl_expr_set_u32(e, NFTNL_EXPR_FIB_DREG, fib.to);
    nftnl_expr_set_u32(e, NFTNL_EXPR_FIB_RESULT, fib.result);
    nftnl_expr_set_u32(e, NFTNL_EXPR_FIB_FLAGS, fib.flags);
  }
  void operator()(const Compare& compare) {
    nftnl_expr* e = make("cmp");
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_SREG, compare.from);
    nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_OP, compare.operation);
    set_data(e, NFTNL_EXPR_CMP_DATA, compare.data);
  }
  void operator()(const Bitwise& bitwise) {
    nftnl_expr* e = make("bitwise");
    nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_SREG, bitwise.from);
    nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_DREG, bitwise.to);
    nftnl_expr_set_u32(e, NFTNL_EXPR_BITWISE_LEN, static_cast<uint32_t>(bitwise.mask.size()));
    set_data(e, NFTNL_EXPR_BITWISE_MASK, bitwise.mask);
    set_data(e, NFTNL_EXPR_BITWISE_XOR, bitwise.exclusive_or);
  }
  void operator()(const Lookup& lookup) {
    nftnl_expr* e = make("lookup");
    nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_SREG, lookup.from);
    if (lookup.to) nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_DREG, *lookup.to);
    nftnl_expr_set_str(e, NFTNL_EXPR_LOOKUP_SET, lookup.set.c_str());
    if (lookup.inverted) nftnl_expr_set_u32(e, NFTNL_EXPR_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
  }
  void operator()(const Immediate& immediate) {
    nftnl_expr* e = make("immediate");
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, immediate.to);
    set_data(e, NFTNL_EXPR_IMM_DATA, immediate.data);
  }
  void operator()(const Verdict& verdict) {
    nftnl_expr* e = make("immediate");
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
    nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, static_cast<uint32_t>(verdict.code));
    if (!verdict.chain.empty()) nftnl_expr_set_str(e, NFTNL_EXPR_IMM_CHAIN, verdict.chain.c_str());
  }
  void operator()(const Counter& counter) {
    nftnl_expr* e = make("counter");
    nftnl_expr_set_u64(e, NFTNL_EXPR_CTR_PACKETS, counter.packets);
    nftnl_expr_set_u64(e, NFTNL_EXPR_CTR_BYTES, counter.bytes);
  }
  void operator()(const Masquerade& masquerade) {
    nftnl_expr* e = make("masq");
    if (masquerade.flags != 0) nftnl_expr_set_u32(e, NFTNL_EXPR_MASQ_FLAGS, masquerade.flags);
  }
  void operator()(const Nat& nat) {
    nftnl_expr* e = make("nat");
    nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_TYPE, nat.type);
    nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_FAMILY, nat.family);
    if (nat.address) nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_REG_ADDR_MIN, *nat.address);
    if (nat.port) nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_REG_PROTO_MIN, *nat.port);
    if (nat.flags != 0) nftnl_expr_set_u32(e, NFTNL_EXPR_NAT_FLAGS, nat.flags);
  }
  void operator()(const Unknown&) {}

  nftnl_expr* made = nullptr;
};

/// The comment among the TLVs that nft keeps in a rule's user data.
std::string comment_of(const nftnl_rule* rule) {
  uint32_t size = 0;
  const auto* bytes = static_cast<const uint8_t*>(nftnl_rule_get_data(rule, NFTNL_RULE_USERDATA, &size));
  std::span<const uint8_t> rest(bytes, bytes ? size : 0);
  while (rest.size() >= 2 && rest.size() >= 2u + rest[1]) {
    const auto value = rest.subspan(2, rest[1]);
    if (rest[0] == NFTNL_UDATA_RULE_COMMENT) {
      return {reinterpret_cast<const char*>(value.data()),
              strnlen(reinterpret_cast<const char*>(value.data()), value.size())};
    }
    rest = rest.subspan(2 + value.size());
  }
  return {};
}

}  // namespace

void Free::operator()(nftnl_table* table) const { nftnl_table_free(table); }
void Free::operator()(nftnl_chain* chain) const { nftnl_chain_free(chain); }
void Free::operator()(nftnl_rule* rule) const { nftnl_rule_free(rule); }
void Free::operator()(nftnl_set* set) const { nftnl_set_free(set); }

Status add_expression(nftnl_rule* rule, const Expression& expression) {
  if (const auto* unknown = std::get_if<Unknown>(&expression)) {
    return invalid_argument("an nftables expression '" + unknown->name + "' can only be read");
  }
  Writer writer;
  std::visit(writer, expression);
  nftnl_rule_add_expr(rule, writer.made);
  return Status::ok();
}

Expression read_expression(const nftnl_expr* e) {
  const std::string name = text_of(e, NFTNL_EXPR_NAME);
  const auto number = [e](uint16_t attribute) { return nftnl_expr_get_u32(e, attribute); };
  if (name == "meta" && nftnl_expr_is_set(e, NFTNL_EXPR_META_DREG)) {
    return Meta{.key = number(NFTNL_EXPR_META_KEY), .to = number(NFTNL_EXPR_META_DREG)};
  }
  if (name == "payload" && nftnl_expr_is_set(e, NFTNL_EXPR_PAYLOAD_DREG)) {
    return Payload{.base = number(NFTNL_EXPR_PAYLOAD_BASE),
                   .offset = number(NFTNL_EXPR_PAYLOAD_OFFSET),
                   .length = number(NFTNL_EXPR_PAYLOAD_LEN),
                   .to = number(NFTNL_EXPR_PAYLOAD_DREG)};
  }
  if (name == "ct" && nftnl_expr_is_set(e, NFTNL_EXPR_CT_DREG) && !nftnl_expr_is_set(e, NFTNL_EXPR_CT_DIR)) {
    return Conntrack{.key = number(NFTNL_EXPR_CT_KEY), .to = number(NFTNL_EXPR_CT_DREG)};
  }
  if (name == "fib") {
    return Fib{.result = number(NFTNL_EXPR_FIB_RESULT),
               .flags = number(NFTNL_EXPR_FIB_FLAGS),
               .to = number(NFTNL_EXPR_FIB_DREG)};
  }
  if (name == "cmp") {
    return Compare{.operation = number(NFTNL_EXPR_CMP_OP),
                   .data = data_of(e, NFTNL_EXPR_CMP_DATA),
                   .from = number(NFTNL_EXPR_CMP_SREG)};
  }
  if (name == "bitwise" && number(NFTNL_EXPR_BITWISE_OP) == NFT_BITWISE_BOOL) {
    return Bitwise{.mask = data_of(e, NFTNL_EXPR_BITWISE_MASK),
                   .exclusive_or = data_of(e, NFTNL_EXPR_BITWISE_XOR),
                   .from = number(NFTNL_EXPR_BITWISE_SREG),
                   .to = number(NFTNL_EXPR_BITWISE_DREG)};
  }
  if (name == "lookup") {
    const bool has_flags = nftnl_expr_is_set(e, NFTNL_EXPR_LOOKUP_FLAGS);
    return Lookup{.set = text_of(e, NFTNL_EXPR_LOOKUP_SET),
                  .inverted = has_flags && (number(NFTNL_EXPR_LOOKUP_FLAGS) & NFT_LOOKUP_F_INV) != 0,
                  .to = optional_of(e, NFTNL_EXPR_LOOKUP_DREG),
                  .from = number(NFTNL_EXPR_LOOKUP_SREG)};
  }
  if (name == "immediate" && nftnl_expr_is_set(e, NFTNL_EXPR_IMM_VERDICT)) {
    return Verdict{.code = static_cast<int32_t>(number(NFTNL_EXPR_IMM_VERDICT)),
                   .chain = text_of(e, NFTNL_EXPR_IMM_CHAIN)};
  }
  if (name == "immediate") {
    return Immediate{.data = data_of(e, NFTNL_EXPR_IMM_DATA), .to = number(NFTNL_EXPR_IMM_DREG)};
  }
  if (name == "counter") {
    return Counter{.packets = nftnl_expr_get_u64(e, NFTNL_EXPR_CTR_PACKETS),
                   .bytes = nftnl_expr_get_u64(e, NFTNL_EXPR_CTR_BYTES)};
  }
  if (name == "masq" && !nftnl_expr_is_set(e, NFTNL_EXPR_MASQ_REG_PROTO_MIN)) {
    return Masquerade{.flags = optional_of(e, NFTNL_EXPR_MASQ_FLAGS).value_or(0)};
  }
  if (name == "nat") {
    // The kernel adds the two flags that follow from the registers.
    const uint32_t flags = optional_of(e, NFTNL_EXPR_NAT_FLAGS).value_or(0);
    return Nat{.type = number(NFTNL_EXPR_NAT_TYPE),
               .family = number(NFTNL_EXPR_NAT_FAMILY),
               .address = optional_of(e, NFTNL_EXPR_NAT_REG_ADDR_MIN),
               .port = optional_of(e, NFTNL_EXPR_NAT_REG_PROTO_MIN),
               .flags = flags & ~uint32_t{NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED}};
  }
  return Unknown{name};
}

Rule read_rule(const nftnl_rule* rule) {
  Rule result{.expressions = {}, .comment = comment_of(rule), .handle = nftnl_rule_get_u64(rule, NFTNL_RULE_HANDLE)};
  nftnl_expr_iter* iterator = nftnl_expr_iter_create(rule);
  while (nftnl_expr* expression = nftnl_expr_iter_next(iterator)) {
    result.expressions.push_back(read_expression(expression));
  }
  nftnl_expr_iter_destroy(iterator);
  return result;
}

}  // namespace pintle::nftables
