#![no_main]
vonic_libfuzzer::target!("segments");
