//! Texts that must fit.

/// The text, or its beginning and `…`: no more than so many bytes.
pub fn shortened(text: &str, bytes: usize) -> String {
    const MORE: &str = "…";
    if text.len() <= bytes {
        return text.to_owned();
    }
    let most = bytes.saturating_sub(MORE.len());
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{MORE}", &text[..end])
}

/// The first few of a list, and how many more there are.
pub fn some_of(list: &[String]) -> String {
    const FEW: usize = 4;
    let few = list.iter().take(FEW).cloned().collect::<Vec<_>>().join("; ");
    match list.len().saturating_sub(FEW) {
        0 => few,
        more => format!("{few}; and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("longer", 5), "lo…");
        let long = "é".repeat(1000);
        let short = shortened(&long, 1024);
        assert!(short.len() <= 1024 && short.ends_with('…'), "{}", short.len());
    }
}
