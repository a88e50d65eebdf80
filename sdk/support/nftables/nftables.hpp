#pragma once

/// nftables: the kernel's packet filter, as values that can be built, committed in one transaction, read back and
/// compared.
///
/// Vocabulary (nft(8)): a *table* belongs to a family and holds chains and sets; a *chain* with a hook sees packets; a
/// *rule* is a row of *expressions* that load into registers, compare, and end in a verdict; a *set* has elements, a
/// *map* gives each one a datum or a verdict. Sets and maps instead of chains keep the cost of a packet and of a change
/// independent of their number.
///
/// Use. Describe the whole of a table as a `Table`, converge the kernel to it:
///
///     Result<std::optional<Table>> actual = read_table(socket, wanted.family, wanted.name);
///     if (!*actual || !equivalent(wanted, **actual)) {
///       Transaction transaction;
///       transaction.replace(wanted);                     // packets see the old or the new table, nothing between
///       Status status = commit(socket, transaction);
///     }
///
/// or apply differences: `add_elements`, `delete_elements`, `insert_rule`, `delete_rule`. A `netlink::Monitor` of
/// `kChanges` hears every change of anybody; `parse_change` says of which table, so that flushed rules come back at
/// once.
///
/// Comparing. The kernel does not return rules as they were sent: it adds handles, normalises, orders and splits
/// elements. So expressions are read back into the same types, and `equivalent` compares these: handles and counters'
/// values do not count, neighbouring intervals do. What these types do not know (`Unknown`) equals nothing.
///
/// Errors. A transaction is applied as a whole or not at all. The status names the first operation that was refused, in
/// the kernel's own words.
///
/// Sources: linux/netfilter/nf_tables.h, nfnetlink.h; libnftnl's headers and examples for attribute names; nft(8).

// The C library's header stands first: the kernel's then leave out what it has defined.
// clang-format off
#include <netinet/in.h>
#include <linux/netfilter.h>
// clang-format on
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "sdk/support/netlink/ip.hpp"
#include "sdk/support/netlink/netlink.hpp"

namespace pintle::nftables {

using Bytes = std::vector<uint8_t>;

enum class Family : uint8_t {
  inet = NFPROTO_INET,
  ip = NFPROTO_IPV4,
  ip6 = NFPROTO_IPV6,
  arp = NFPROTO_ARP,
  bridge = NFPROTO_BRIDGE,
  netdev = NFPROTO_NETDEV
};
std::string_view family_name(Family family);

// ---- Expressions: registers are NFT_REG_1 to NFT_REG_4 of 16 bytes, or NFT_REG32_00 to _15 of 4 bytes
// ----------------------

/// Loads a property of the packet's way: NFT_META_IIFNAME, NFT_META_NFPROTO, NFT_META_L4PROTO, ...
struct Meta {
  uint32_t key = 0;
  uint32_t to = NFT_REG_1;
  bool operator==(const Meta&) const = default;
};
/// Loads bytes of the packet, from NFT_PAYLOAD_NETWORK_HEADER and the like.
struct Payload {
  uint32_t base = 0;
  uint32_t offset = 0;
  uint32_t length = 0;
  uint32_t to = NFT_REG_1;
  bool operator==(const Payload&) const = default;
};
/// Loads a property of the tracked connection: NFT_CT_STATE, ...
struct Conntrack {
  uint32_t key = 0;
  uint32_t to = NFT_REG_1;
  bool operator==(const Conntrack&) const = default;
};
/// Asks the routing tables about the packet: NFT_FIB_RESULT_ADDRTYPE loads RTN_LOCAL and the like, four bytes of the host's order.
struct Fib {
  uint32_t result = NFT_FIB_RESULT_ADDRTYPE;
  uint32_t flags = NFTA_FIB_F_DADDR;
  uint32_t to = NFT_REG_1;
  bool operator==(const Fib&) const = default;
};
/// Goes on only if the register compares so: NFT_CMP_EQ, ...
struct Compare {
  uint32_t operation = NFT_CMP_EQ;
  Bytes data;
  uint32_t from = NFT_REG_1;
  bool operator==(const Compare&) const = default;
};
/// register = (register & mask) ^ exclusive_or.
struct Bitwise {
  Bytes mask;
  Bytes exclusive_or;
  uint32_t from = NFT_REG_1;
  uint32_t to = NFT_REG_1;
  bool operator==(const Bitwise&) const = default;
};
/// Goes on only if the register's value is in the set (or is not, `inverted`). Of a map: loads the element's datum into
/// `to`; of a verdict map (`to` is NFT_REG_VERDICT): ends with the element's verdict.
struct Lookup {
  std::string set;
  bool inverted = false;
  std::optional<uint32_t> to;
  uint32_t from = NFT_REG_1;
  bool operator==(const Lookup&) const = default;
};
/// Loads a constant.
struct Immediate {
  Bytes data;
  uint32_t to = NFT_REG_1;
  bool operator==(const Immediate&) const = default;
};
/// Ends the rule: NF_ACCEPT, NF_DROP, NFT_RETURN, or NFT_JUMP and NFT_GOTO with a chain.
struct Verdict {
  int32_t code = NF_ACCEPT;
  std::string chain;
  bool operator==(const Verdict&) const = default;
};
/// Counts. Values are the kernel's: sent as the start, read as the count, never compared.
struct Counter {
  uint64_t packets = 0;
  uint64_t bytes = 0;
  bool operator==(const Counter&) const { return true; }
};
/// Source NAT to the address of the interface that the packet leaves by.
struct Masquerade {
  uint32_t flags = 0;
  bool operator==(const Masquerade&) const = default;
};
/// NAT to the address (and port) in registers: NFT_NAT_DNAT or NFT_NAT_SNAT.
struct Nat {
  uint32_t type = NFT_NAT_DNAT;
  uint32_t family = NFPROTO_IPV4;
  std::optional<uint32_t> address;
  std::optional<uint32_t> port;
  uint32_t flags = 0;  ///< NF_NAT_RANGE_PROTO_RANDOM and the like
  bool operator==(const Nat&) const = default;
};
/// One that this library cannot write.
struct Unknown {
  std::string name;
  bool operator==(const Unknown&) const { return false; }
};
using Expression = std::variant<Meta, Payload, Conntrack, Fib, Compare, Bitwise, Lookup, Immediate, Verdict, Counter,
                                Masquerade, Nat, Unknown>;

// ---- Tables
// ----------------------------------------------------------------------------------------------------------------

struct Rule {
  std::vector<Expression> expressions;
  std::string comment;  ///< at most 127 bytes; nft shows it
  uint64_t handle = 0;  ///< the kernel's
};

struct Hook {
  std::string type = "filter";  ///< "filter", "nat", "route"
  uint32_t number = NF_INET_FORWARD;
  int32_t priority = 0;
  uint32_t policy = NF_ACCEPT;
  bool operator==(const Hook&) const = default;
};

struct Chain {
  std::string name;
  std::optional<Hook> hook;  ///< absent: it is jumped to
  std::vector<Rule> rules;
};

/// Keys are of fixed size in network order. An interval set's element reaches from `key` to `key_end`, both included.
struct Element {
  Bytes key;
  Bytes key_end;                   ///< empty unless the set has intervals
  Bytes data;                      ///< of a map
  std::optional<Verdict> verdict;  ///< of a verdict map
  auto operator<=>(const Element& other) const { return key <=> other.key; }
  bool operator==(const Element&) const = default;
};

/// nft's numbers for types of keys and data, so that `nft list` shows elements well; concatenations shift by six bits
/// each (`joined`), and each of their fields begins at a multiple of four bytes.
enum DataType : uint32_t {
  kTypeVerdict = 1,
  kTypeIpv4 = 7,
  kTypeIpv6 = 8,
  kTypeProtocol = 12,
  kTypePort = 13,
  kTypeInterfaceName = 41
};

/// The type of a concatenation: joined(joined(kTypeIpv4, kTypeProtocol), kTypePort).
constexpr uint32_t joined(uint32_t left, uint32_t right) { return left << 6 | right; }

struct Set {
  std::string name;
  uint32_t key_type = kTypeIpv4;
  uint32_t key_size = 4;
  bool intervals = false;
  std::optional<uint32_t> data_type;  ///< a map; kTypeVerdict for a verdict map
  uint32_t data_size = 0;
  std::vector<Element> elements;
};

struct Table {
  Family family = Family::inet;
  std::string name;
  std::vector<Set> sets;
  std::vector<Chain> chains;
};

/// A set of subnets of one family: overlapping and neighbouring ones are merged, as the kernel wants intervals.
Set subnet_set(std::string name, bool ipv6, std::span<const netlink::IpPrefix> subnets);
/// An interface name as 16 bytes, as NFT_META_IIFNAME loads it.
Bytes interface_name(std::string_view name);
Element interface_element(std::string_view name);

/// Whether packets cannot tell them apart. Order of chains, sets and elements, handles and counts do not matter; the
/// order of rules does.
bool equivalent(const Table& left, const Table& right);
bool equivalent(const Rule& left, const Rule& right);

// ---- Changing
// --------------------------------------------------------------------------------------------------------------

/// Operations that happen together or not at all.
class Transaction {
 public:
  /// Nothing happens if it is there.
  void add_table(Family family, std::string_view table);
  /// NOT_FOUND if there is none.
  void delete_table(Family family, std::string_view table);
  /// The table becomes exactly this, whatever was there before.
  void replace(const Table& table);
  /// The table is gone afterwards, whether it was there or not.
  void remove(Family family, std::string_view table);
  /// With its rules.
  void add_chain(Family family, std::string_view table, const Chain& chain);
  void delete_chain(Family family, std::string_view table, std::string_view chain);
  /// At the chain's end, or (`insert_rule`) its beginning.
  void add_rule(Family family, std::string_view table, std::string_view chain, const Rule& rule);
  void insert_rule(Family family, std::string_view table, std::string_view chain, const Rule& rule);
  void delete_rule(Family family, std::string_view table, std::string_view chain, uint64_t handle);
  /// With its elements. `set` must be given whole also for changes of its elements: its size and kind say how they are
  /// sent.
  void add_set(Family family, std::string_view table, const Set& set);
  void delete_set(Family family, std::string_view table, std::string_view set);
  void add_elements(Family family, std::string_view table, const Set& set, std::span<const Element> elements);
  /// NOT_FOUND if one is not there.
  void delete_elements(Family family, std::string_view table, const Set& set, std::span<const Element> elements);

  bool empty() const { return starts_.empty(); }

 private:
  friend Status commit(netlink::Socket& socket, Transaction& transaction);
  void append(uint16_t type, uint16_t flags, Family family, std::string what, const void* object,
              void (*build)(nlmsghdr*, const void*));
  void put_rule(uint16_t flags, Family family, std::string_view table, std::string_view chain, const Rule& rule,
                std::string_view verb);
  void put_set(Family family, std::string_view table, const Set& set);
  void put_elements(uint16_t type, Family family, std::string_view table, const Set& set,
                    std::span<const Element> elements);

  std::vector<uint8_t> bytes_;
  std::vector<size_t> starts_;
  std::vector<std::string> whats_;
  Status unwritable_;  // why the transaction cannot be sent at all
};

/// Applies it. `socket`: of NETLINK_NETFILTER. The transaction may be committed again.
Status commit(netlink::Socket& socket, Transaction& transaction);

// ---- Reading
// ---------------------------------------------------------------------------------------------------------------

/// The whole table; nothing if there is none of that name.
Result<std::optional<Table>> read_table(netlink::Socket& socket, Family family, const std::string& name);

struct BaseChain {
  Family family;
  std::string table;
  std::string chain;
  Hook hook;
};
/// All chains with a hook, of all tables but those of netdev.
Result<std::vector<BaseChain>> list_base_chains(netlink::Socket& socket);
/// The rules of one chain, in order.
Result<std::vector<Rule>> list_rules(netlink::Socket& socket, Family family, const std::string& table,
                                     const std::string& chain);

/// The multicast group for a netlink::Monitor of NETLINK_NETFILTER.
inline constexpr uint32_t kChanges[] = {NFNLGRP_NFTABLES};

struct Change {
  uint16_t type = 0;  ///< NFT_MSG_NEWRULE, NFT_MSG_DELTABLE, ...
  Family family = Family::inet;
  std::string table;
};
/// Nothing for messages that are about no table (the new generation's number).
std::optional<Change> parse_change(const nlmsghdr& message);

}  // namespace pintle::nftables
