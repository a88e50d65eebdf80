#pragma once

/// The JSON of the Kubernetes API, by reflection.
///
/// `decode` and `encode` carry any message of `sdk/schema/k8s` between Protobuf and JSON. What a type's JSON looks like
/// stands in its schema (`k8s/options.proto`): there is no code for a single kind here. The output is what Go's encoder
/// writes for the Kubernetes types, field for field, so that any Kubernetes client can read it:
///   - a field without `always` is left out when it is empty: a list or map without elements, a zero number, an empty
///   text;
///   - a `pointer` is left out only when it is absent, so `terminationGracePeriodSeconds: 0` stays;
///   - a message that is no pointer is always written, as {} or as null (times), unless it is `omit_zero`;
///   - the fields of an `inline` message stand in its parent's object: `hostPath` in a Volume, `httpGet` in a Probe;
///   - map keys are sorted, bytes are base64, 64-bit integers are plain numbers;
///   - quantities are in canonical form ("0.5" becomes "500m"), times are RFC 3339 in UTC.
///
/// Reading is strict on demand: an unknown field is a problem with its path and the nearest right name, or is passed
/// over as a Kubernetes server does with `fieldValidation=Ignore`. A wrong type is a problem either way. Null means
/// absent.
///
/// All functions may be called from any thread.

#include <boost/json/fwd.hpp>
#include <string>

#include "sdk/api/problem.hpp"

namespace google::protobuf {
class Message;
class Descriptor;
}  // namespace google::protobuf

namespace pintle::api {

struct DecodeOptions {
  bool strict = true;  ///< unknown fields are problems
};

/// Fills `message`, which is cleared first, from an object. The message holds what could be read even if there are
/// problems. If its type is a kind of the API, `apiVersion` and `kind` may be absent, but must be right where they are
/// not.
PINTLE_API_EXPORT Problems decode(const boost::json::value& value, google::protobuf::Message& message,
                                  const DecodeOptions& options = {});

/// The message's JSON; of a kind of the API with `apiVersion` and `kind` in front.
PINTLE_API_EXPORT boost::json::value encode(const google::protobuf::Message& message);
/// The same as text, without white space.
PINTLE_API_EXPORT std::string encode_text(const google::protobuf::Message& message);

}  // namespace pintle::api
