//! The Python bindings, in Python: `proto/bindings/python/test_golden.py` holds them to the golden bytes.

use std::path::Path;
use std::process::Command;

#[test]
fn the_python_bindings_pass_the_golden_bytes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/bindings/python");
    let run = Command::new("python3").args(["-B", "-m", "unittest", "test_golden"]).current_dir(folder).output();
    let output = match run {
        Ok(output) => output,
        Err(error) => {
            assert!(std::env::var_os("NEUROSHARD_REQUIRE_DRIVERS").is_none(), "install python3: {error}");
            return eprintln!("SKIPPED: the Python bindings were not tested, python3 does not start: {error}");
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the bindings fail in Python:\n{said}");
    // A run that found no test succeeds, too.
    assert!(said.contains("Ran 11 tests"), "{said}");
}
