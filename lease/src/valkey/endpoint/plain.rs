//! Why a connection could not be opened, in one line that says what to look at.

use std::io;

use redis::{ErrorKind, RedisError};

/// Puts `error`, which ended an attempt to connect, into one plain line; its kind stays.
///
/// The library's words for a peer that speaks another protocol are several lines about the byte
/// that it did not expect.
pub(super) fn plain(error: RedisError) -> RedisError {
    let told = error.to_string();
    if matches!(
        error.kind(),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType
    ) {
        let told = "what answers there does not speak Valkey's protocol; are address, port and TLS \
                    right?";
        return RedisError::from((ErrorKind::Parse, told));
    }
    if error.kind() == ErrorKind::RESP3NotSupported {
        let told = "the server does not speak RESP3; it must be Valkey, or Redis 6 or newer";
        return RedisError::from((error.kind(), told));
    }
    if !error.is_io_error() {
        return error;
    }
    let missing = told.contains("No such file");
    let (kind, look_at) = match () {
        () if error.is_timeout() => {
            let told = "it did not answer in time; are address, port and TLS right?";
            return RedisError::from(io::Error::new(io::ErrorKind::TimedOut, told));
        }
        () if error.is_connection_refusal() => (io::ErrorKind::ConnectionRefused, ""),
        () if error.is_connection_dropped() && !missing => {
            (io::ErrorKind::ConnectionReset, "; does it expect TLS?")
        }
        () if told.contains("UnknownIssuer") || told.contains("BadSignature") => {
            (io::ErrorKind::Other, "; is its authority in tls.ca_file?")
        }
        () if told.contains("CertificateRequired") => (
            io::ErrorKind::Other,
            "; it wants tls.cert_file and tls.key_file",
        ),
        () => (io::ErrorKind::Other, ""),
    };
    let told = told.lines().collect::<Vec<_>>().join(" ");
    RedisError::from(io::Error::new(kind, format!("{told}{look_at}")))
}
