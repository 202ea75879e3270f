//! The io_uring driver: the only `unsafe` code of the gateway. It knows no protocol.
