//! The manual's page of the API: what its own description lists.
use std::fs;
use std::io;

use serde_json::Value;

/// The page.
///
/// # Errors
/// The file system's, and if the description is none.
pub fn markdown() -> io::Result<String> {
    let text = fs::read_to_string(crate::project().join("backend/docs/openapi.json"))?;
    let description: Value = serde_json::from_str(&text)?;
    let mut page = "# API\n\nMade of [openapi.json](../openapi.json) by `make docs-reference`: do not edit. HTTP/1.1 with JSON over the socket `api.sock` in \
        `runtime_dir`; `vonic` does nothing but ask it, and shows the answers as they are with `--json`. Bodies, parameters and errors in full are in \
        that file, which vonicd also gives to whoever asks:\n\n    \
        curl --unix-socket /run/vonic/api.sock http://vonic/v1/vms/web1\n    \
        curl --unix-socket /run/vonic/api.sock http://vonic/v1/openapi.json\n\n\
        Whoever the socket lets in may look; what changes something is for root and for the user that vonicd is. Fields are added, never renamed or \
        removed. An error says what is wrong, which field is meant, and what to do: `{\"error\":{\"message\":…,\"field\":…,\"mend\":…}}`.\n\n\
        | request | parameters | what it does |\n|---|---|---|\n"
        .to_string();
    for (path, operations) in description["paths"].as_object().into_iter().flatten() {
        for method in ["get", "put", "post", "delete"] {
            let operation = &operations[method];
            let Some(summary) = operation["summary"].as_str() else { continue };
            let asked = operation["parameters"].as_array().into_iter().flatten().filter(|one| one["in"] == "query");
            let asked: Vec<String> = asked.filter_map(|one| Some(format!("`{}`", one["name"].as_str()?))).collect();
            page.push_str(&format!("| `{} {path}` | {} | {summary} |\n", method.to_uppercase(), asked.join(", ")));
        }
    }
    Ok(page)
}
