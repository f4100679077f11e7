//! Metadata as a tree of paths, each a text: what scripts read without a reader of JSON.
use percent_encoding::percent_decode_str;
use serde_json::Value;

/// The text at `path` of a tree, whose parts stand between slashes: a value, or a list of what there is, a line each and with a slash
/// behind what has parts of its own. `None`: there is nothing.
pub(super) fn text(root: &Value, path: &str) -> Option<String> {
    let mut value = root;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let part = percent_decode_str(part).decode_utf8().ok()?;
        value = value.as_object()?.get(part.as_ref())?;
    }
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(values) => Some(lines(values.iter().filter_map(Value::as_str).map(str::to_string))),
        Value::Object(_) => Some(lines(names(value))),
        other => Some(other.to_string()),
    }
}

/// What there is in a tree: what is absent is not.
pub(super) fn names(value: &Value) -> impl Iterator<Item = String> {
    let entries = value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    entries.map(|(name, value)| if value.is_object() { format!("{name}/") } else { name.clone() })
}

fn lines(all: impl Iterator<Item = String>) -> String {
    all.map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_texts() {
        let tree = serde_json::json!({
            "mtu": 1500, "name": "a", "hostname": null, "resolvers": ["192.0.2.1", "2001:db8::1"],
            "ipv4": { "address": "192.0.2.2" }, "labels": { "tier": "web", "a/b c": "x" },
        });
        let text = |path| text(&tree, path);
        assert_eq!(text("mtu").as_deref(), Some("1500"));
        assert_eq!(text("/name/").as_deref(), Some("a"));
        assert_eq!(text("resolvers").as_deref(), Some("192.0.2.1\n2001:db8::1\n"));
        assert_eq!(text("ipv4/address").as_deref(), Some("192.0.2.2"));
        assert_eq!(text("labels").as_deref(), Some("a/b c\ntier\n"));
        assert_eq!(text("labels/a%2Fb%20c").as_deref(), Some("x"));
        assert_eq!(text("").as_deref(), Some("ipv4/\nlabels/\nmtu\nname\nresolvers\n"));
        for nothing in ["hostname", "mtu/x", "labels/none", "resolvers/0", "%ff"] {
            assert_eq!(text(nothing), None, "{nothing}");
        }
    }
}
