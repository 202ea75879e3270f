//! The codecs under bytes that nobody wrote by hand: properties over generated frames, and the
//! fuzz corpus.

mod bodies;
mod corpus;
mod properties;
