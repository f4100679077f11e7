//! Names of VMs and networks.

/// Names that a VM may not have, since files in the runtime directory have them.
const RESERVED: &[&str] = &["api", "engine"];

/// Whether a name may be a network's. The error says what to write.
pub(crate) fn check(name: &str) -> Result<(), String> {
    let known = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if known && (1..=63).contains(&name.len()) {
        return Ok(());
    }
    Err(format!("'{name}' cannot be one: write 1 to 63 of the characters a-z, A-Z, 0-9, '.', '_' and '-'"))
}

/// Whether a name may be a VM's. The error says what to write.
pub(super) fn check_vm(name: &str) -> Result<(), String> {
    if RESERVED.contains(&name) {
        return Err(format!("'{name}' is vonic's own: give the file another name"));
    }
    // No reload would find its file: those are drafts, and editors' own.
    if name.starts_with('.') {
        return Err(format!("'{name}' begins with a dot, as no VM's file does: give the file another name"));
    }
    check(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_good_and_bad() {
        for good in ["web1", "a", "A.b_c-9", &"x".repeat(63)] {
            assert_eq!(check_vm(good), Ok(()), "{good}");
        }
        for bad in ["", "a b", "a/b", "ü", "a:b", "a\n", &"x".repeat(64)] {
            assert!(check_vm(bad).unwrap_err().contains("write 1 to 63 of"), "{bad}");
        }
        for hidden in [".", "..", ".a"] {
            assert!(check_vm(hidden).unwrap_err().contains("another name"), "{hidden}");
        }
        for own in ["api", "engine"] {
            assert!(check_vm(own).unwrap_err().contains("another name"), "{own}");
            assert_eq!(check(own), Ok(()));
        }
    }
}
