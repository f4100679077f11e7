//! What stands behind a path's question mark.
use percent_encoding::percent_decode_str;

use crate::api::ApiError;

/// Reads `name=value&…`; every name has to be one of `known`, and stands there once.
///
/// # Errors
/// 400, which says what there is.
pub(super) fn read<const N: usize>(query: Option<&str>, known: [&str; N]) -> Result<[Option<String>; N], ApiError> {
    let mut values = [const { None }; N];
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let wrong = |why: &str| {
            let known = if N == 0 { "nothing".to_string() } else { known.join(", ") };
            ApiError::bad_request(why).field("query").mend(format!("use {known}"))
        };
        let place = known.iter().position(|known| *known == name).ok_or_else(|| wrong("there is no such parameter"))?;
        let value = percent_decode_str(value).decode_utf8().map_err(|_| wrong("a value is no UTF-8"))?;
        if values[place].replace(value.into_owned()).is_some() {
            return Err(wrong("a parameter stands there twice"));
        }
    }
    Ok(values)
}

/// A number of at most `most`.
///
/// # Errors
/// 400, with what is wanted.
pub(super) fn number(name: &str, text: Option<&str>, (least, most): (u32, u32), default: u32) -> Result<u32, ApiError> {
    let Some(text) = text else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| {
        let message = format!("{name} is no such number");
        ApiError::bad_request(message).field(name).mend(format!("use one from {least} to {most}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_wrong_ones_told() {
        let read = |query| read(query, ["after", "batch"]);
        assert_eq!(read(None), Ok([None, None]));
        assert_eq!(read(Some("batch=3&after=a%2Db")), Ok([Some("a-b".into()), Some("3".into())]));
        assert_eq!(read(Some("&after&")), Ok([Some(String::new()), None]));
        for wrong in ["limit=3", "after=1&after=2", "after=%ff", &"x".repeat(9000)] {
            let error = read(Some(wrong)).unwrap_err();
            assert_eq!((error.status, error.mend.as_deref()), (400, Some("use after, batch")));
            assert!(error.message.len() < 100);
        }
        assert_eq!(number("batch", None, (1, 9), 5), Ok(5));
        assert_eq!(number("batch", Some("9"), (1, 9), 5), Ok(9));
        for wrong in ["", "0", "10", "-1", "x"] {
            assert_eq!(number("batch", Some(wrong), (1, 9), 5).unwrap_err().mend.unwrap(), "use one from 1 to 9");
        }
    }
}
