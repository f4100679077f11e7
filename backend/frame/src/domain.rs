//! Domain names as options carry them: labels with their lengths (RFC 1035 §3.1), in DHCP (RFC 3397), DHCPv6 (RFC 3646, RFC 8415
//! §10) and router advertisements (RFC 8106).

/// The longest label (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;
/// The longest name as it is written, without a dot at its end: 255 bytes with lengths and root (RFC 1035 §2.3.4).
const NAME_MAX: usize = 253;

/// Whether this may be a host's own name: letters, digits and hyphens, of which none stands at an end (RFC 1123 §2.1).
pub fn is_label(text: &str) -> bool {
    let known = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    known && (1..=LABEL_MAX).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-')
}

/// Whether this may be a domain: labels with dots between them. An underscore may stand in a domain, if in no host's name.
pub fn is_domain(text: &str) -> bool {
    text.len() <= NAME_MAX && text.split('.').all(|label| is_label(&label.replace('_', "x")))
}

/// Writes names, each as [`is_domain`] has it, one behind the other. None is compressed: IPv6's options forbid it, and DHCP's
/// permits it (RFC 3397 §2).
pub fn encode_domains<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut out = Vec::new();
    for name in names {
        for label in name.split('.') {
            out.push(label.len() as u8);
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_domains_good_and_bad() {
        let long = "x".repeat(63);
        for good in ["a", "web-1", "0", &long] {
            assert!(is_label(good) && is_domain(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "ü", "a_b", "a.b", &format!("{long}x")] {
            assert!(!is_label(bad), "{bad}");
        }
        let longest = [&long[..], &long, &long, &long[..61]].join(".");
        for good in ["example.org", "a.b.c", "_tcp.example.org", &longest] {
            assert!(is_domain(good), "{good}");
        }
        for bad in ["", ".", "example.org.", "a..b", ".a", "a b.c", &format!("{longest}x")] {
            assert!(!is_domain(bad), "{bad}");
        }
    }

    #[test]
    fn names_are_labels_with_lengths() {
        assert_eq!(encode_domains(["example.org", "x"]), b"\x07example\x03org\0\x01x\0");
        assert_eq!(encode_domains([]), b"");
    }
}
