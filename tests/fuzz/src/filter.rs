//! What somebody wants to capture: an expression, and frames that are held against it.
use vonic_control::capture::filter::Filter;

/// An input is an expression, a zero, and a frame.
pub fn run(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (text, frame) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let Ok(text) = str::from_utf8(text) else { return };
    match Filter::parse(text) {
        Ok(filter) => {
            let said = filter.to_string();
            let again = Filter::parse(&said);
            // What is said back may be longer than what may be asked for.
            if let Ok(again) = &again {
                assert_eq!(again.matches(frame), filter.matches(frame), "{text}: {said}");
            } else {
                assert!(said.len() > text.len(), "{text}: {said}: {again:?}");
            }
        }
        Err(why) => assert!(!why.is_empty() && why.len() < 1000, "{why}"),
    }
}
