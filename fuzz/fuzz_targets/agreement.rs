#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| neuroshard_fuzz::agreement::run(bytes));
