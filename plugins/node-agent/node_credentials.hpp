#pragma once

/// What the node API proves itself with, and whom it believes: of the administrator's own PKI, or of an authority of the node's own.
///
/// The node's own lies in the folder that all instances of the agent share, 0700:
///
///     pki/ca.crt ca.key          the authority, ten years
///     pki/server.crt .key        the node: its name, localhost, 127.0.0.1, ::1, its address and `names`
///     pki/admin.crt .key         user "admin" of the group system:masters
///
/// and for the administrator a copy of ca.crt, admin.crt and admin.key in `admin_folder`, as for `curl --cacert ca.crt --cert admin.crt --key
/// admin.key`. Whatever has lived two thirds of its life is issued anew, while the server goes on (certificates.hpp); an own PKI's files
/// are read anew when they change.
///
/// Blocks; any thread.

#include <chrono>
#include <pintle/status.hpp>
#include <string>
#include <vector>

namespace pintle::agent {

struct CredentialSettings {
  std::string certificate, key, client_authority;  ///< paths of an own PKI; all or none
  std::string folder;                              ///< for the node's own authority
  std::string admin_folder;                        ///< empty: no copy for the administrator
  std::string node;
  std::vector<std::string> dns_names, addresses;  ///< besides the node's name, localhost and its addresses
  std::chrono::seconds life = std::chrono::hours(24 * 365);
};

struct Credentials {
  std::string certificate, key, client_authority;  ///< PEM
  std::chrono::system_clock::time_point expires;   ///< the server's certificate
  std::chrono::system_clock::time_point look_again;
};

/// Makes, renews or reads them. An own PKI: FAILED_PRECONDITION names the file that is wrong.
Result<Credentials> keep_credentials(const CredentialSettings& settings);

}  // namespace pintle::agent
