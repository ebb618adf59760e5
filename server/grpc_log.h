// gRPC's own complaints as lines of our log, so that all of the log is of one format. Most of them tell of
// handshakes that failed, and strangers can cause those at will: each place in gRPC gets one line a second.
#pragma once

namespace kvcrush {

// For the whole process; once is enough.
void take_grpc_log();

}  // namespace kvcrush
