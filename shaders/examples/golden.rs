//! Prints the self-test's golden hashes from the reference engine:
//!
//! ```sh
//! cargo run -p neuroshard-shaders --example golden > shaders/src/selftest/golden.txt
//! ```

fn main() -> Result<(), neuroshard_proto::Fault> {
    print!("{}", neuroshard_shaders::selftest::golden()?);
    Ok(())
}
