#include "plugins/node-agent/node_credentials.hpp"

#include <algorithm>

#include "sdk/support/certificates/certificates.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

using certificates::Clock;
using certificates::Use;

constexpr size_t kLongestCommonName = 64;
constexpr std::chrono::minutes kLookAtFiles{1};
constexpr std::chrono::hours kLookAtClock{24};  // clocks jump; what is due is seen within a day

Result<Credentials> read_own(const CredentialSettings& settings) {
  Credentials read;
  for (const auto& [path, into] :
       {std::pair(&settings.certificate, &read.certificate), std::pair(&settings.key, &read.key),
        std::pair(&settings.client_authority, &read.client_authority)}) {
    if (path->empty())
      return invalid_argument("nodeApi: certificate, key and clientAuthority belong together: give all three or none");
    Result<std::string> text = files::read_file(*path, 1 << 20);
    if (!text) return text.status().with_context("nodeApi");
    *into = std::move(*text);
  }
  const Result<certificates::Facts> facts = certificates::read_certificate(read.certificate);
  if (!facts) return facts.status().with_context(settings.certificate);
  if (const auto authority = certificates::read_certificate(read.client_authority); !authority)
    return authority.status().with_context(settings.client_authority);
  read.expires = facts->not_after;
  read.look_again = Clock::now() + kLookAtFiles;
  return read;
}

/// Writes a file unless it is there with these bytes.
Status copy(int folder, const std::string& name, const std::string& text, mode_t mode) {
  const Result<std::string> present = files::read_file(folder, name);
  if (present && *present == text) return Status::ok();
  return files::write_file(folder, name, text, files::Durability::synced, mode);
}

Status copy_for_admin(const std::string& path, const std::string& authority, const certificates::Pair& admin) {
  if (Status made = files::make_folders(path, 0700); !made) return made;
  Result<files::Descriptor> folder = files::open_folder(path);
  if (!folder) return folder.status();
  if (Status copied = copy(folder->get(), "ca.crt", authority, 0644); !copied) return copied;
  if (Status copied = copy(folder->get(), "admin.key", admin.key, 0600); !copied) return copied;
  return copy(folder->get(), "admin.crt", admin.certificate, 0644);
}

}  // namespace

Result<Credentials> keep_credentials(const CredentialSettings& settings) {
  if (!settings.certificate.empty() || !settings.key.empty() || !settings.client_authority.empty())
    return read_own(settings);
  const std::string name = settings.node.substr(0, kLongestCommonName - 18);
  const auto authority = certificates::keep_authority(settings.folder, "ca", "pintle authority " + name);
  if (!authority) return authority.status();
  certificates::Request server{.common_name = name,
                               .organizations = {},
                               .use = Use::server,
                               .dns_names = {settings.node, "localhost"},
                               .addresses = {"127.0.0.1", "::1"},
                               .life = settings.life};
  server.dns_names.insert(server.dns_names.end(), settings.dns_names.begin(), settings.dns_names.end());
  server.addresses.insert(server.addresses.end(), settings.addresses.begin(), settings.addresses.end());
  for (auto* list : {&server.dns_names, &server.addresses}) {
    std::sort(list->begin(), list->end());
    list->erase(std::unique(list->begin(), list->end()), list->end());
  }
  const auto pair = certificates::keep_issued(settings.folder, "server", authority->pair, server);
  if (!pair) return pair.status();
  const certificates::Request admin{.common_name = "admin",
                                    .organizations = {"system:masters"},
                                    .use = Use::client,
                                    .dns_names = {},
                                    .addresses = {},
                                    .life = settings.life};
  const auto client = certificates::keep_issued(settings.folder, "admin", authority->pair, admin);
  if (!client) return client.status();
  if (!settings.admin_folder.empty())
    if (Status copied = copy_for_admin(settings.admin_folder, authority->pair.certificate, client->pair); !copied)
      return copied.with_context("the administrator's copy of the certificates");
  const auto server_facts = certificates::read_certificate(pair->pair.certificate);
  const auto client_facts = certificates::read_certificate(client->pair.certificate);
  if (!server_facts || !client_facts) return data_loss("the certificates in " + settings.folder + " are unreadable");
  Credentials made{pair->pair.certificate, pair->pair.key, authority->pair.certificate, server_facts->not_after, {}};
  made.look_again = std::min({certificates::renew_at(*server_facts), certificates::renew_at(*client_facts),
                              Clock::now() + Clock::duration(kLookAtClock)});
  return made;
}

}  // namespace pintle::agent
