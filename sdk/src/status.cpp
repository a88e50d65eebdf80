#include <cerrno>
#include <pintle/status.hpp>
#include <system_error>

namespace pintle {

Status status_from_errno(int error, std::string_view what) {
  Code code = Code::unknown;
  switch (error) {
    case 0:
      return Status::ok();
    case ENOENT:
    case ESRCH:
    case ENXIO:
    case ENODEV:
      code = Code::not_found;
      break;
    case EEXIST:
    case EADDRINUSE:
      code = Code::already_exists;
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      code = Code::permission_denied;
      break;
    case EINVAL:
    case ENAMETOOLONG:
    case E2BIG:
    case EBADF:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
      code = Code::invalid_argument;
      break;
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case EAGAIN:
      code = Code::resource_exhausted;
      break;
    case EBUSY:
    case ENOTEMPTY:
    case ETXTBSY:
    case EXDEV:
      code = Code::failed_precondition;
      break;
    case ENOSYS:
    case EOPNOTSUPP:
    case EPROTONOSUPPORT:
    case EAFNOSUPPORT:
      code = Code::unimplemented;
      break;
    case ETIMEDOUT:
      code = Code::deadline_exceeded;
      break;
    case ECANCELED:
    case EINTR:
      code = Code::cancelled;
      break;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENOTCONN:
      code = Code::unavailable;
      break;
    case EIO:
    case EILSEQ:
      code = Code::data_loss;
      break;
    default:
      break;
  }
  return {code, std::string(what) + ": " + std::generic_category().message(error)};
}

}  // namespace pintle
