//! A Rust source with its comments and the insides of its literals blanked, so that rules can look
//! for words and braces without a parser. Lines and columns (in characters) stay where they were.

use std::ops::Range;

/// One Rust file: what was written, and the same with everything but code blanked.
pub(crate) struct Source<'a> {
    /// The text as it is in the file.
    pub(crate) text: &'a str,
    /// The text with comments and literals' insides replaced by spaces, character for character.
    pub(crate) code: Vec<char>,
}

/// A function found in the code.
pub(crate) struct Function {
    /// Its name.
    pub(crate) name: String,
    /// Its lines, from the one with `fn` to the one with its closing brace, counted from 0.
    pub(crate) lines: Range<usize>,
}

impl<'a> Source<'a> {
    /// Masks a text.
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, code: mask(text) }
    }

    /// The masked code as lines.
    pub(crate) fn code_lines(&self) -> Vec<String> {
        self.code.split(|c| *c == '\n').map(|line| line.iter().collect()).collect()
    }

    /// The line, from 0, of a position in the code.
    pub(crate) fn line_of(&self, at: usize) -> usize {
        self.code[..at].iter().filter(|c| **c == '\n').count()
    }

    /// Positions where `word` begins as a whole word (what precedes it is no part of a name).
    pub(crate) fn find_all(&self, word: &str) -> Vec<usize> {
        let word: Vec<char> = word.chars().collect();
        let starts = |at: &usize| {
            self.code[*at] == word[0]
                && self.code[*at..].starts_with(&word)
                && (*at == 0 || !is_name(word[0]) || !is_name(self.code[*at - 1]))
        };
        (0..self.code.len()).filter(starts).collect()
    }

    /// Where the block that opens at or after `from` ends: past its closing brace. `None` when a
    /// semicolon outside brackets comes first, as in a function of a trait without a body.
    pub(crate) fn block_end(&self, from: usize) -> Option<usize> {
        let (mut braces, mut others) = (0_usize, 0_usize);
        for (at, c) in self.code.iter().enumerate().skip(from) {
            match c {
                '{' => braces += 1,
                '}' => {
                    braces = braces.checked_sub(1)?;
                    if braces == 0 && others == 0 {
                        return Some(at + 1);
                    }
                }
                '(' | '[' => others += 1,
                ')' | ']' => others = others.checked_sub(1)?,
                ';' if braces == 0 && others == 0 => return None,
                _ => {}
            }
        }
        None
    }

    /// The lines, from 0, that are compiled for tests only: items behind `#[cfg(test)]`.
    pub(crate) fn test_lines(&self) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        for at in self.test_attributes() {
            let first = self.line_of(at);
            if found.iter().any(|range| range.contains(&first)) {
                continue;
            }
            let after = at + self.code[at..].iter().position(|c| *c == ']').unwrap_or(0) + 1;
            let last = self.block_end(after).map_or(first, |end| self.line_of(end - 1));
            found.push(first..last + 1);
        }
        found
    }

    /// Names of modules declared `#[cfg(test)] mod name;`: their files are test code.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let mut found = Vec::new();
        for at in self.test_attributes() {
            let rest: String = self.code[at..].iter().take(200).collect();
            let rest = rest.split_once(']').map_or("", |(_, rest)| rest);
            let head = rest.split_once(';').map_or("", |(head, _)| head);
            if let Some(name) = head.trim_start().strip_prefix("mod ") {
                found.push(name.trim().to_owned());
            }
        }
        found
    }

    fn test_attributes(&self) -> Vec<usize> {
        let mut found = self.find_all("#[cfg(test)]");
        found.extend(self.find_all("#[cfg(all(test"));
        found.sort_unstable();
        found
    }

    /// Every function with a body.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for at in self.find_all("fn ") {
            let name: String = self.code[at + 3..].iter().take_while(|c| is_name(**c)).collect();
            // `fn (` is a function pointer's type.
            let Some(end) = self.block_end(at).filter(|_| !name.is_empty()) else { continue };
            found.push(Function { name, lines: self.line_of(at)..self.line_of(end - 1) + 1 });
        }
        found
    }
}

/// Whether the character may stand in a name.
pub(crate) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Blanks comments and the insides of literals. The quotes of strings stay.
fn mask(text: &str) -> Vec<char> {
    let chars: Vec<char> = text.chars().collect();
    let mut code = chars.clone();
    let mut at = 0;
    while at < chars.len() {
        let (blank, next) = token(&chars, at);
        for c in code[blank].iter_mut().filter(|c| **c != '\n') {
            *c = ' ';
        }
        at = next;
    }
    code
}

/// What to blank of the comment or literal that begins here, and where to go on. Anything else is
/// passed over one character at a time.
fn token(chars: &[char], at: usize) -> (Range<usize>, usize) {
    let comment = |end: usize| (at..end, end);
    let inside = |open: usize, end: usize| (open + 1..(end - 1).max(open + 1), end);
    let pass = (at..at, at + 1);
    match (chars[at], chars.get(at + 1)) {
        ('/', Some('/')) => comment(line_comment_end(chars, at)),
        ('/', Some('*')) => comment(block_comment_end(chars, at)),
        ('"', _) => inside(at, string_end(chars, at)),
        ('\'', _) => char_end(chars, at).map_or(pass, |end| inside(at, end)),
        ('r' | 'b' | 'c', _) if at == 0 || !is_name(chars[at - 1]) => {
            raw_string_end(chars, at).unwrap_or(pass)
        }
        _ => pass,
    }
}

fn line_comment_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| at + n)
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0_usize, at);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                i += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], open: usize) -> usize {
    let mut i = open + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// For `r"`, `r#"`, `br"`, `cr"`: the inside and the end past its last `#`.
fn raw_string_end(chars: &[char], at: usize) -> Option<(Range<usize>, usize)> {
    let r = if chars[at] == 'r' { at } else { at + 1 };
    if chars.get(r) != Some(&'r') {
        return None;
    }
    let hashes = chars[r + 1..].iter().take_while(|c| **c == '#').count();
    let open = r + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |i: &usize| {
        chars[*i] == '"' && chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes
    };
    let close = (open + 1..chars.len()).find(closes);
    let end = close.map_or(chars.len(), |i| i + 1 + hashes);
    Some((open + 1..close.unwrap_or(chars.len()), end))
}

/// The end of a character literal, or `None` when the quote begins a lifetime.
fn char_end(chars: &[char], at: usize) -> Option<usize> {
    match chars.get(at + 1)? {
        '\\' => {
            // The escaped character itself may be a quote.
            let close = chars.get(at + 3..)?.iter().position(|c| *c == '\'')?;
            Some(at + 3 + close + 1)
        }
        _ if chars.get(at + 2) == Some(&'\'') => Some(at + 3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        Source::new(text).code.iter().collect()
    }

    #[test]
    fn comments_and_literals_are_blank_and_code_stays_in_place() {
        let text = "let a = \"fn {\"; // fn }\nlet b = 'x'; /* a /* b */ { */ let c: &'a u8;";
        let gap = " ".repeat(19);
        let expected = format!("let a = \"    \";        \nlet b = ' ';{gap}let c: &'a u8;");
        assert_eq!(masked(text), expected);
    }

    #[test]
    fn raw_strings_and_escapes_end_where_rust_ends_them() {
        assert_eq!(masked(r####"r#"a"b"# + "\"" + '\'' + b"x""####).matches('"').count(), 6);
        assert!(masked("'\\'' }").ends_with('}'));
        assert!(masked("\"\\\\\" }").ends_with('}'));
    }

    #[test]
    fn functions_have_their_lines() {
        let source = Source::new(
            "trait T { fn a(&self); }\nfn b(f: fn (u8)) -> [u8; 2] {\n  if x { y }\n}\n",
        );
        let found = source.functions();
        let names: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.lines.clone())).collect();
        assert_eq!(names, [("b", 1..4)]);
    }

    #[test]
    fn test_items_are_found() {
        let source = Source::new("fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nfn c() {}");
        assert_eq!(source.test_lines(), std::iter::once(1..5).collect::<Vec<_>>());
        let source = Source::new("#[cfg(test)]\nmod tests;\nmod x;\n#[cfg(test)] mod walk;");
        assert_eq!(source.test_modules(), ["tests", "walk"]);
    }
}
