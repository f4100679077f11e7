#![no_main]
vonic_libfuzzer::target!("guest");
