//! A VM's configuration as a body: TOML as it stands in the VM's file, or JSON that says the same.
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;

use super::{ApiError, body};

/// The media types of a body.
pub(super) const TOML: &str = "application/toml";
pub(super) const JSON: &str = "application/json";

/// Reads it, as the text of a file.
///
/// # Errors
/// 415: it is something else; 400, and those of a body.
pub(super) async fn read(request: hyper::Request<Incoming>) -> Result<String, ApiError> {
    let media_type = request.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default().to_string());
    let body = body::read(request.into_body()).await?;
    let text = String::from_utf8(body.into()).map_err(|_| bad("the body is not UTF-8", "save it in that encoding"))?;
    if text.trim().is_empty() {
        return Err(bad("there is no body", "send the VM's configuration, as mac = \"52:54:00:00:00:02\""));
    }
    let named = media_type.as_deref().map(|named| named.split(';').next().unwrap_or_default().trim());
    match named.map(str::to_ascii_lowercase).as_deref() {
        // No TOML begins so.
        None if text.trim_start().starts_with('{') => toml_of(&text),
        None | Some(TOML | "text/plain" | "") => Ok(text),
        Some(JSON) => toml_of(&text),
        Some(_) => {
            let error = ApiError::new(415, "the body is of another type").field("content-type");
            Err(error.mend(format!("send {TOML} or {JSON}")))
        }
    }
}

fn bad(message: impl Into<String>, mend: &str) -> ApiError {
    ApiError::bad_request(message).field("body").mend(mend)
}

/// The same as TOML, which knows no null: such a key is left out, as in an answer.
fn toml_of(text: &str) -> Result<String, ApiError> {
    let json: serde_json::Value = serde_json::from_str(text)
        .map_err(|e| bad(format!("the body is not JSON: {e}"), "see https://json.org for the syntax"))?;
    match without_null(json) {
        Some(json @ serde_json::Value::Object(_)) => {
            toml::to_string(&json).map_err(|e| bad(format!("the body cannot be a file: {e}"), "send it as TOML"))
        }
        _ => Err(bad("the body is no object", "send the keys of a VM's file, as {\"mac\": \"52:54:00:00:00:02\"}")),
    }
}

fn without_null(value: serde_json::Value) -> Option<serde_json::Value> {
    use serde_json::Value;
    Some(match value {
        Value::Null => return None,
        Value::Array(all) => Value::Array(all.into_iter().filter_map(without_null).collect()),
        Value::Object(all) => {
            Value::Object(all.into_iter().filter_map(|(key, value)| Some((key, without_null(value)?))).collect())
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_says_what_toml_says() {
        let json = r#"{"forward": [{"proto": "tcp", "listen": "127.0.0.1:80", "port": 80}], "labels": {"a b": "\u0001\u007f"},
            "mac": "52:54:00:00:00:02", "mtu": 1400, "failover": false, "address4": null}"#;
        let toml: toml::Table = toml_of(json).unwrap().parse().unwrap();
        let expected: toml::Table =
            "mac = \"52:54:00:00:00:02\"\nmtu = 1400\nfailover = false\nlabels = { \"a b\" = \"\\u0001\\u007f\" }\n\
            [[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:80\"\nport = 80\n"
                .parse()
                .unwrap();
        assert_eq!(toml, expected);
        for wrong in ["", "[]", "1", "null", "{", "{\"mac\": 1} x"] {
            let error = toml_of(wrong).unwrap_err();
            assert_eq!((error.status, error.field.as_deref()), (400, Some("body")), "{wrong}");
        }
    }
}
