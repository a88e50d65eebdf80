#pragma once

/// Expressions to and from libnftnl: the one place that knows its attributes.

#include <memory>

#include "sdk/support/nftables/nftables.hpp"

struct nftnl_chain;
struct nftnl_expr;
struct nftnl_rule;
struct nftnl_set;
struct nftnl_table;

namespace pintle::nftables {

struct Free {
  void operator()(nftnl_table* table) const;
  void operator()(nftnl_chain* chain) const;
  void operator()(nftnl_rule* rule) const;
  void operator()(nftnl_set* set) const;
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

/// Adds the expression to the rule. INVALID_ARGUMENT for an `Unknown` one.
Status add_expression(nftnl_rule* rule, const Expression& expression);
Expression read_expression(const nftnl_expr* expression);
/// A rule with its comment and expressions.
Rule read_rule(const nftnl_rule* rule);

}  // namespace pintle::nftables
