#![no_main]
vonic_libfuzzer::target!("decode");
