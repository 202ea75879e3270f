//! What a run came to, for programs and for people.

pub mod hlog;
pub mod html;
pub mod merge;
pub mod result;
pub mod table;
pub mod verdict;
