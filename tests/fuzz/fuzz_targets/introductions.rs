#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| synod_fuzz::check("introductions", input));
