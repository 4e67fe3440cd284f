//! The Rust blocks of the book, as documentation tests. `tests/book.rs` sees to it that no page with such blocks is left
//! out.

macro_rules! pages {
    ($($name:ident: $path:literal),* $(,)?) => {
        $(#[doc = include_str!(concat!("../../docs/src/", $path))] mod $name {})*
    };
}

pages! {
    arithmetic: "arithmetic.md",
    host: "host.md",
    identity: "protocol/01-identity.md",
}
