//! The matrix as a page of its own, without anything from elsewhere.

use std::fmt::Write as _;

use super::matrix::{Asked, Matrix, Outcome};
use super::word;

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Who can talk to whom</title>
<style>
:root { color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif }
body { margin: 1.5rem }
.frame { overflow: auto; max-height: 75vh; border: 1px solid #8886 }
table { border-collapse: separate; border-spacing: 1px }
th { font-weight: normal; white-space: nowrap; text-align: left; background: Canvas }
thead th { position: sticky; top: 0; writing-mode: vertical-rl; padding: .4rem .1rem }
tbody th, thead th:first-child { position: sticky; left: 0; padding: .1rem .5rem; z-index: 1 }
td { min-width: 1.4rem; height: 1.4rem; text-align: center; cursor: default; color: #fff }
td:hover, td:focus { outline: 2px solid currentColor }
.allowed { background: #2a7d46 } .denied { background: #b3372f }
.partly { background: #a86a00 } .unknown { background: #666 }
#why { min-height: 6rem; white-space: pre-wrap }
</style>
<h1>Who can talk to whom</h1>
<p>From the row to the column: <b>+</b> allowed, <b>-</b> denied, <b>~</b> in part, <b>?</b> unknown, blank: the pod names
no port. Point at a field for the reason.</p>
<p><label>Only pods with <input id="only" type="search"></label></p>
<div class="frame"><table><thead><tr><th></th>"#;

const TAIL: &str = r#"<script>
const why = document.getElementById("why"), table = document.querySelector("table");
const tell = event => { if (event.target.dataset.why) why.textContent = event.target.dataset.why };
table.addEventListener("mouseover", tell);
table.addEventListener("focusin", tell);
document.getElementById("only").addEventListener("input", event => {
  const columns = [...table.tHead.rows[0].cells];
  const shown = columns.map((cell, at) => !at || cell.textContent.includes(event.target.value));
  columns.forEach((cell, at) => cell.hidden = !shown[at]);
  [...table.tBodies[0].rows].forEach((row, at) => {
    row.hidden = !shown[at + 1];
    [...row.cells].forEach((cell, at) => cell.hidden = !shown[at]);
  });
});
</script>
"#;

/// The page.
pub fn page(matrix: &Matrix) -> String {
    let mut out = String::from(HEAD);
    for pod in &matrix.pods {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escaped(&pod.to_string()));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for (from, row) in matrix.pods.iter().zip(&matrix.cells) {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escaped(&from.to_string()));
        for (to, cell) in matrix.pods.iter().zip(row) {
            let outcome = cell.outcome();
            let Some(class) = class(outcome) else {
                out.push_str("<td></td>");
                continue;
            };
            let mut why = format!("{from} to {to}");
            for Asked { family, port, verdict, reason } in &cell.asked {
                let _ = write!(why, "\n{port} over {family}: {}: {reason}", word(*verdict));
            }
            let (why, sign) = (escaped(&why), outcome.sign());
            let _ =
                write!(out, "<td class=\"{class}\" tabindex=\"0\" data-why=\"{why}\">{sign}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n<p id=\"why\" aria-live=\"polite\"></p>\n");
    for note in &matrix.notes {
        let _ = writeln!(out, "<p>Note: {}.</p>", escaped(note));
    }
    out.push_str(TAIL);
    out
}

fn class(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Allowed => Some("allowed"),
        Outcome::Denied => Some("denied"),
        Outcome::Partly => Some("partly"),
        Outcome::Unknown => Some("unknown"),
        Outcome::Nothing => None,
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}
