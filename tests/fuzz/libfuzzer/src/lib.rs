//! libFuzzer's programs: one for each target of `vonic-fuzz`.

pub use libfuzzer_sys;

/// The program of a target: `target!("frames");`.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            let target = vonic_fuzz::target($name).expect("there is such a target");
            (target.run)(data);
        });
    };
}
