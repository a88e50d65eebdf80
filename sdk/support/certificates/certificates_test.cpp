// The peer is the program `openssl`: what it does not take, other TLS libraries will not take either.

#include "sdk/support/certificates/certificates.hpp"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "sdk/support/files/files.hpp"

namespace pintle::certificates {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::string run(const std::string& command) {
  std::string output;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  std::array<char, 4096> buffer;
  while (const size_t count = fread(buffer.data(), 1, buffer.size(), pipe)) output.append(buffer.data(), count);
  pclose(pipe);
  return output;
}

mode_t mode_of(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? info.st_mode & 07777 : 0;
}

std::string content(const std::string& path) { return *files::read_file(path); }

class CertificatesTest : public testing::Test {
 protected:
  CertificatesTest() { std::filesystem::create_directories(folder_); }
  ~CertificatesTest() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  Pair authority(Time now = Clock::now()) { return keep_authority(folder_, "ca", "test authority", now)->pair; }
  std::string openssl_verify(const std::string& purpose, const std::string& name) {
    return run("openssl verify -x509_strict -purpose " + purpose + " -CAfile " + path("ca.crt") + " " +
               path(name + ".crt"));
  }

  const std::string folder_ = testing::TempDir() + "/certificates-" + files::random_hex(8);
  const Request server_ = {.common_name = "node1",
                           .organizations = {},
                           .use = Use::server,
                           .dns_names = {"node1", "localhost"},
                           .addresses = {"127.0.0.1", "fd00::1"}};
  const Request admin_ = {.common_name = "admin",
                          .organizations = {"system:masters", "other"},
                          .use = Use::client,
                          .dns_names = {},
                          .addresses = {}};
};

TEST_F(CertificatesTest, OpensslTakesWhatTheAuthorityIssues) {
  const Pair ca = authority();
  ASSERT_TRUE(keep_issued(folder_, "server", ca, server_));
  ASSERT_TRUE(keep_issued(folder_, "admin", ca, admin_));
  EXPECT_THAT(openssl_verify("sslserver", "server"), HasSubstr("server.crt: OK"));
  EXPECT_THAT(openssl_verify("sslclient", "admin"), HasSubstr("admin.crt: OK"));
  EXPECT_THAT(openssl_verify("sslclient", "server"), HasSubstr("error"));
  EXPECT_THAT(openssl_verify("sslserver", "admin"), HasSubstr("error"));
  const std::string text = run("openssl x509 -noout -text -in " + path("server.crt"));
  EXPECT_THAT(text, HasSubstr("DNS:node1, DNS:localhost, IP Address:127.0.0.1, IP Address:FD00:0:0:0:0:0:0:1"));
  EXPECT_THAT(text, HasSubstr("prime256v1"));
  EXPECT_THAT(run("openssl x509 -noout -subject -nameopt RFC2253 -in " + path("admin.crt")),
              HasSubstr("CN=admin,O=other,O=system:masters"));
}

TEST_F(CertificatesTest, KeysAreTheOwnersAlone) {
  const Pair ca = authority();
  ASSERT_TRUE(keep_issued(folder_, "server", ca, server_));
  EXPECT_EQ(mode_of(path("ca.key")), 0600u);
  EXPECT_EQ(mode_of(path("server.key")), 0600u);
  EXPECT_EQ(mode_of(path("server.crt")), 0644u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 4) << "a temporary file stayed";
}

TEST_F(CertificatesTest, ReadsWhatItWrote) {
  const Result<Pair> made = issue(authority(), server_);
  ASSERT_TRUE(made) << made.status().message();
  const Result<Facts> facts = read_certificate(made->certificate);
  ASSERT_TRUE(facts);
  EXPECT_EQ(facts->common_name, "node1");
  EXPECT_THAT(facts->dns_names, ElementsAre("node1", "localhost"));
  EXPECT_THAT(facts->addresses, ElementsAre("127.0.0.1", "fd00::1"));
  EXPECT_FALSE(facts->is_authority);
  EXPECT_TRUE(read_certificate(authority().certificate)->is_authority);
}

TEST_F(CertificatesTest, IssuesAnewAtTwoThirdsOfTheLifeAndNotBefore) {
  const Pair ca = authority();
  const Time now = Clock::now();
  const Kept first = *keep_issued(folder_, "server", ca, server_, now);
  EXPECT_TRUE(first.is_new);
  EXPECT_FALSE(keep_issued(folder_, "server", ca, server_, now + server_.life * 6 / 10)->is_new);
  const Kept renewed = *keep_issued(folder_, "server", ca, server_, now + server_.life * 7 / 10);
  EXPECT_TRUE(renewed.is_new);
  EXPECT_NE(renewed.pair.certificate, first.pair.certificate);
  EXPECT_EQ(content(path("server.crt")), renewed.pair.certificate);
  EXPECT_TRUE(check(renewed.pair, ca.certificate, Use::server, now + server_.life));
}

TEST_F(CertificatesTest, IssuesAnewWhatIsTornOrSaysSomethingElse) {
  const Pair ca = authority();
  const Kept first = *keep_issued(folder_, "server", ca, server_);
  ASSERT_TRUE(store(folder_, "server", {first.pair.certificate, issue(ca, server_)->key}));
  EXPECT_TRUE(keep_issued(folder_, "server", ca, server_)->is_new);
  EXPECT_FALSE(keep_issued(folder_, "server", ca, server_)->is_new);
  Request moved = server_;
  moved.addresses = {"192.0.2.7"};
  EXPECT_TRUE(keep_issued(folder_, "server", ca, moved)->is_new);
  std::ofstream(path("server.crt"), std::ios::trunc).flush();
  EXPECT_TRUE(keep_issued(folder_, "server", ca, moved)->is_new);
  const Pair other = *make_authority("another");
  EXPECT_TRUE(keep_issued(folder_, "server", other, moved)->is_new);
}

TEST_F(CertificatesTest, AnAuthorityMadeAnewGoesOnWithItsKey) {
  const Time now = Clock::now();
  const Pair ca = authority(now);
  const Pair client = keep_issued(folder_, "admin", ca, admin_, now + 24h * 2200)->pair;
  const Kept renewed = *keep_authority(folder_, "ca", "test authority", now + 24h * 2490);
  EXPECT_TRUE(renewed.is_new);
  EXPECT_EQ(renewed.pair.key, ca.key);
  EXPECT_TRUE(check(client, renewed.pair.certificate, Use::client, now + 24h * 2491));
}

TEST_F(CertificatesTest, AnAuthorityWhoseCertificateIsDamagedGoesOnWithItsKey) {
  const Pair ca = authority();
  const Pair client = keep_issued(folder_, "admin", ca, admin_)->pair;
  std::ofstream(path("ca.crt"), std::ios::trunc) << "nonsense";
  const Result<Kept> kept = keep_authority(folder_, "ca", "test authority");
  ASSERT_TRUE(kept) << kept.status().message();
  EXPECT_TRUE(kept->is_new);
  EXPECT_TRUE(check(client, kept->pair.certificate, Use::client));
}

TEST_F(CertificatesTest, AnAuthorityWhoseKeyIsDamagedIsMadeAnewAndSoIsWhatItIssued) {
  const Pair ca = authority();
  ASSERT_TRUE(keep_issued(folder_, "admin", ca, admin_));
  std::ofstream(path("ca.key"), std::ios::trunc) << ca.key.substr(0, ca.key.size() / 2);
  const Result<Kept> kept = keep_authority(folder_, "ca", "test authority");
  ASSERT_TRUE(kept) << kept.status().message();
  EXPECT_NE(kept->pair.key, ca.key);
  const Result<Kept> client = keep_issued(folder_, "admin", kept->pair, admin_);
  ASSERT_TRUE(client);
  EXPECT_TRUE(client->is_new);
  EXPECT_TRUE(check(client->pair, kept->pair.certificate, Use::client));
  EXPECT_FALSE(keep_authority(folder_, "ca", "test authority")->is_new);
}

TEST_F(CertificatesTest, AnAuthorityWhoseCertificateWasNeverWrittenIsMade) {
  std::ofstream(path("ca.key")) << "half";
  const Result<Kept> kept = keep_authority(folder_, "ca", "test authority");
  ASSERT_TRUE(kept) << kept.status().message();
  EXPECT_TRUE(kept->is_new);
}

TEST_F(CertificatesTest, ChecksTimeSignatureKeyAndUse) {
  const Pair ca = authority();
  const Pair server = *issue(ca, server_);
  EXPECT_TRUE(check(server, ca.certificate, Use::server));
  EXPECT_THAT(check(server, ca.certificate, Use::server, Clock::now() + server_.life + 1h).message(),
              HasSubstr("expired"));
  EXPECT_THAT(check(server, ca.certificate, Use::server, Clock::now() - 1h).message(), HasSubstr("not yet valid"));
  EXPECT_FALSE(check(server, ca.certificate, Use::client));
  EXPECT_FALSE(check(server, make_authority("another")->certificate, Use::server));
  EXPECT_THAT(check({server.certificate, ca.key}, ca.certificate, Use::server).message(), HasSubstr("key is not"));
}

TEST_F(CertificatesTest, RefusesWhatCannotStandInACertificate) {
  const Pair ca = authority();
  Request request = server_;
  request.addresses = {"300.1.1.1"};
  EXPECT_THAT(issue(ca, request).status().message(), HasSubstr("\"300.1.1.1\" is not an IP address"));
  request = server_;
  request.common_name = "test authority";
  EXPECT_THAT(issue(ca, request).status().message(), HasSubstr("is the authority's own name"));
  request.common_name = std::string(65, 'x');
  EXPECT_EQ(issue(ca, request).status().code(), Code::invalid_argument);
  const Status no_key = issue({ca.certificate, "secret words"}, server_).status();
  EXPECT_EQ(no_key.code(), Code::failed_precondition);
  EXPECT_THAT(no_key.message(), Not(HasSubstr("secret")));
}

}  // namespace
}  // namespace pintle::certificates
