//! Why a connection ended, or was refused: one enum from the wire to the metric label to the log.

macro_rules! reasons {
    ($( $(#[$doc:meta])* $name:ident = $code:literal, $label:literal; )+) => {
        /// Why a connection ended or was refused (SPEC.md, "Close reasons").
        ///
        /// The discriminant is the code on the wire, in GOAWAY, CLOSE, REJECT and CLOSED.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $( $(#[$doc])* $name = $code, )+ }

        impl Reason {
            /// Every reason, in the order of the codes.
            pub const ALL: &'static [Reason] = &[ $( Reason::$name, )+ ];

            /// The reason with this code on the wire.
            pub const fn from_code(code: u8) -> Option<Reason> {
                match code { $( $code => Some(Reason::$name), )+ _ => None }
            }

            /// The label used in metrics, logs and JSON: lower case, words joined by `_`.
            pub const fn label(self) -> &'static str {
                match self { $( Reason::$name => $label, )+ }
            }
        }
    };
}

reasons! {
    /// The client sent CLOSE.
    ClientClosed = 1, "client_closed";
    /// The client ended its sending side without CLOSE (FIN).
    ClientEof = 2, "client_eof";
    /// The client's TCP connection was reset.
    ClientReset = 3, "client_reset";
    /// The client's host stopped answering (ETIMEDOUT from TCP).
    ClientVanished = 4, "client_vanished";
    /// No complete HELLO within `handshake_timeout_ms`.
    HandshakeTimeout = 5, "handshake_timeout";
    /// Nothing received for `idle_timeout_ms`.
    IdleTimeout = 6, "idle_timeout";
    /// A frame stayed incomplete for longer than `frame_timeout_ms`.
    FrameTimeout = 7, "frame_timeout";
    /// A frame type that the protocol does not define.
    UnknownType = 8, "unknown_type";
    /// A frame's length is over the limit.
    Oversize = 9, "oversize";
    /// Bits that must be zero are set.
    ReservedBits = 10, "reserved_bits";
    /// A frame's payload does not follow its layout.
    Malformed = 11, "malformed";
    /// HELLO names a protocol version the gateway does not speak.
    Version = 12, "version";
    /// A frame that is not allowed in this state (such as MESSAGE before HELLO).
    UnexpectedFrame = 13, "unexpected_frame";
    /// The client did not take its data: over `outbox_bytes_max` or `write_timeout_ms`.
    SlowConsumer = 14, "slow_consumer";
    /// The client sent more messages than its rate allows.
    RateLimited = 15, "rate_limited";
    /// The gateway holds as many connections as it may.
    Full = 16, "full";
    /// This address holds as many connections as it may.
    PerIpLimit = 17, "per_ip_limit";
    /// The gateway has just started and takes connections at a limited rate.
    AcceptRamp = 18, "accept_ramp";
    /// No worker is up.
    NoWorker = 19, "no_worker";
    /// The worker refused the connection.
    WorkerRejected = 20, "worker_rejected";
    /// The worker closed the connection.
    WorkerClosed = 21, "worker_closed";
    /// The gateway is shutting down or handing over.
    Drain = 22, "drain";
    /// A pool or the memory budget of the gateway was exhausted.
    MemoryBudget = 23, "memory_budget";
    /// The PROXY header is missing, malformed or from an untrusted source.
    ProxyHeader = 24, "proxy_header";
    /// The connection moved to another worker (links only; never sent to a client).
    Moved = 25, "moved";
    /// An operator closed the connection.
    AdminClosed = 26, "admin_closed";
    /// Writing to the client failed.
    WriteError = 27, "write_error";
    /// The gateway failed; the log has more.
    Internal = 28, "internal";
}

impl Reason {
    /// The code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Whether a client that a gateway closed for this reason should come back as it is (SPEC.md,
    /// "Close reasons", column "back"); otherwise it would only be closed again, or is never told.
    pub const fn invites_back(self) -> bool {
        matches!(
            self,
            Self::HandshakeTimeout
                | Self::IdleTimeout
                | Self::FrameTimeout
                | Self::RateLimited
                | Self::Full
                | Self::PerIpLimit
                | Self::AcceptRamp
                | Self::NoWorker
                | Self::Drain
                | Self::MemoryBudget
                | Self::AdminClosed
                | Self::Internal
        )
    }
}

impl Reason {
    /// Whether a worker may state this reason in REJECT or CLOSE (SPEC.md 3.6): the client is told it.
    pub const fn may_be_stated(self) -> bool {
        !matches!(
            self,
            Self::ClientClosed
                | Self::ClientEof
                | Self::ClientReset
                | Self::ClientVanished
                | Self::SlowConsumer
                | Self::Moved
                | Self::WriteError
        )
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn codes_round_trip_and_labels_are_unique() {
        let mut labels = std::collections::HashSet::new();
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
            assert!(labels.insert(reason.label()), "{reason} twice");
        }
        assert_eq!(Reason::from_code(0), None);
        assert_eq!(Reason::from_code(255), None);
    }

    #[test]
    fn who_should_come_back_is_as_the_specification_says() {
        let spec = include_str!("../SPEC.md");
        for &reason in Reason::ALL {
            let begin = format!("| {} | `{reason}` |", reason.code());
            let row = spec.lines().find(|line| line.starts_with(&begin)).expect("a row for each reason");
            assert_eq!(row.ends_with("| yes |"), reason.invites_back(), "{row}");
            assert_eq!(row.ends_with("| - |"), !reason.may_be_stated(), "{row}");
        }
    }
}
