//! What a guest's agent sends, and what vonic itself tells guests: read, written, read again.
use vonic_agent::message::{Message, clean};

/// An input is a message.
pub fn run(data: &[u8]) {
    if let Ok(message) = Message::read(data) {
        let shown = [&message.agent, &message.hostname, &message.kernel];
        assert!(shown.iter().all(|text| text.bytes().all(|byte| (0x20..0x7f).contains(&byte))), "{message:?}");
        assert!(message.interfaces.len() <= 64);
        let again = serde_json::to_vec(&message);
        let again = again.as_deref().map(Message::read);
        assert!(matches!(&again, Ok(Ok(same)) if *same == message), "{again:?}");
    }
    if let Ok(text) = str::from_utf8(data) {
        let cleaned = clean(text, 32);
        assert!(cleaned.len() <= 32 && cleaned.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{cleaned:?}");
    }
}
