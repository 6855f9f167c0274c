//! Transactions as people write them: a line for each condition and each step.
//!
//! ```text
//! compare
//!   exists order/17
//!   value stock = 3
//!   mod_revision stock < 120
//! then
//!   put stock 2
//!   delete prefix hold/17/
//!   get order/17
//! else
//!   get stock
//! ```
//!
//! Words are separated by spaces; one that contains a space, a quote or a `#` stands in double
//! quotes, where `\"`, `\\`, `\n`, `\t` and `\xNN` mean what they mean elsewhere. A word that
//! begins with `#` begins a comment.

use atoll_client::{Bytes, Compare, CompareTarget, KeyEnd, Keys, Relation, Revision, Txn};

use super::exit::Problem;

/// What `atoll txn --help` says of it.
pub(super) const HELP: &str = "\
A transaction is text, or one JSON object (see docs/cli.md). As text:

  compare
    exists order/17
    value stock = 3
  then
    put stock 2
    delete prefix hold/17/
    get order/17
  else
    get stock

Conditions, which must all hold:
  exists KEY                   missing KEY
  value KEY = TEXT             or !=, <, >
  version KEY = N              or create_revision, mod_revision; or !=, <, >
Steps:
  put KEY VALUE
  get KEY                      or: get prefix KEY, get from KEY to KEY
  delete KEY                   or: delete prefix KEY, delete from KEY to KEY
A word with spaces stands in double quotes, with \\\", \\\\, \\n, \\t and \\xNN; # begins a comment.

Exit code: 0 when the conditions held, 3 when the else part was done.";

/// Which part of a transaction a line belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Compare,
    Then,
    Else,
}

/// Builds the transaction that `text` describes.
pub(super) fn build(text: &str, mut txn: Txn) -> Result<Txn, Problem> {
    let mut part = None;
    for (number, line) in (1..).zip(text.lines()) {
        let refuse =
            |why: String| Problem::usage(format!("line {number} of the transaction: {why}"));
        let words = words(line).map_err(refuse)?;
        let [first, rest @ ..] = &words[..] else { continue };
        let heading = match (&first[..], rest) {
            (b"compare", []) => Some(Part::Compare),
            (b"then", []) => Some(Part::Then),
            (b"else", []) => Some(Part::Else),
            _ => None,
        };
        if let Some(next) = heading {
            let place =
                |part| [Part::Compare, Part::Then, Part::Else].iter().position(|p| *p == part);
            let is_later = part.is_none_or(|part| place(part) < place(next));
            if !is_later {
                return Err(refuse("the order is compare, then, else, each once".to_owned()));
            }
            if next == Part::Else {
                txn = txn.otherwise();
            }
            part = Some(next);
            continue;
        }
        txn = match part {
            None => return Err(refuse("it begins with compare, then or else".to_owned())),
            Some(Part::Compare) => txn.when(condition(first, rest).map_err(refuse)?),
            Some(Part::Then | Part::Else) => step(first, rest, txn).map_err(refuse)?,
        };
    }
    if part.is_none() {
        return Err(Problem::usage("the transaction is empty; see atoll txn --help"));
    }
    Ok(txn)
}

fn show(word: &[u8]) -> String {
    word.escape_ascii().to_string()
}

fn condition(kind: &Bytes, rest: &[Bytes]) -> Result<Compare, String> {
    let about = |key: &Bytes, relation, target| Compare {
        key: key.clone(),
        end: KeyEnd::Single,
        target,
        relation,
    };
    match (&kind[..], rest) {
        (b"exists", [key]) => Ok(about(key, Relation::Greater, CompareTarget::Version(0))),
        (b"missing", [key]) => Ok(about(key, Relation::Equal, CompareTarget::Version(0))),
        (b"value" | b"version" | b"create_revision" | b"mod_revision", [key, sign, than]) => {
            let relation = match &sign[..] {
                b"=" => Relation::Equal,
                b"!=" => Relation::NotEqual,
                b"<" => Relation::Less,
                b">" => Relation::Greater,
                _ => return Err(format!("{:?} is none of =, !=, <, >", show(sign))),
            };
            let number = || {
                let text = std::str::from_utf8(than).ok();
                let number = text.and_then(|t| t.parse::<u64>().ok());
                number.ok_or_else(|| format!("{:?} is no number", show(than)))
            };
            let target = match &kind[..] {
                b"value" => CompareTarget::Value(than.clone()),
                b"version" => CompareTarget::Version(number()?),
                b"create_revision" => CompareTarget::Create(Revision(number()?)),
                _ => CompareTarget::Mod(Revision(number()?)),
            };
            Ok(about(key, relation, target))
        }
        _ => Err(format!(
            "a condition is exists KEY, missing KEY, or value, version, create_revision or \
             mod_revision with KEY, one of = != < >, and a value; this begins with {:?} and has \
             {} words after it",
            show(kind),
            rest.len()
        )),
    }
}

fn step(kind: &Bytes, rest: &[Bytes], txn: Txn) -> Result<Txn, String> {
    match (&kind[..], rest) {
        (b"put", [key, value]) => Ok(txn.put(key.clone(), value.clone())),
        (b"get", of) => Ok(txn.range(keys(of)?)),
        (b"delete", of) => Ok(txn.delete(keys(of)?)),
        _ => Err(format!(
            "a step is put KEY VALUE, get or delete; this begins with {:?} and has {} words after \
             it",
            show(kind),
            rest.len()
        )),
    }
}

fn keys(words: &[Bytes]) -> Result<Keys, String> {
    match words {
        [key] => Ok(Keys::one(key.clone())),
        [prefix, key] if prefix == "prefix" => Ok(Keys::prefix(key.clone())),
        [from, first, to, end] if from == "from" && to == "to" => {
            Ok(Keys::between(first.clone(), end.clone()))
        }
        _ => Err("get and delete take KEY, prefix KEY, or from KEY to KEY".to_owned()),
    }
}

/// The words of a line, without quotes and comments.
fn words(line: &str) -> Result<Vec<Bytes>, String> {
    let mut words = Vec::new();
    let mut rest = line.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        match rest.peek() {
            None | Some('#') => return Ok(words),
            Some('"') => {
                rest.next();
                words.push(quoted(&mut rest)?);
            }
            Some(_) => {
                let mut word = String::new();
                while let Some(c) = rest.next_if(|c| !c.is_whitespace() && *c != '"') {
                    word.push(c);
                }
                if rest.peek() == Some(&'"') {
                    return Err(format!("a quote in the middle of {word:?}"));
                }
                words.push(Bytes::from(word));
            }
        }
    }
}

fn quoted(rest: &mut impl Iterator<Item = char>) -> Result<Bytes, String> {
    let mut word = Vec::new();
    loop {
        let c = match rest.next().ok_or("a quote is not closed")? {
            '"' => return Ok(Bytes::from(word)),
            '\\' => match rest.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(c @ ('"' | '\\')) => c,
                Some('x') => {
                    let mut digit = || rest.next().and_then(|c| c.to_digit(16));
                    let (Some(high), Some(low)) = (digit(), digit()) else {
                        return Err("\\x wants two hexadecimal digits".to_owned());
                    };
                    word.push((high << 4 | low) as u8);
                    continue;
                }
                other => return Err(format!("there is no escape \\{}", other.unwrap_or(' '))),
            },
            c => c,
        };
        word.extend(c.encode_utf8(&mut [0; 4]).bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Result<Vec<Vec<u8>>, String> {
        Ok(words(line)?.into_iter().map(|w| w.to_vec()).collect())
    }

    #[test]
    fn words_are_split_and_quotes_hold_anything() {
        let cases: [(&str, &[&[u8]]); 6] = [
            ("", &[]),
            ("  put a  b # no more", &[b"put", b"a", b"b"]),
            (r#"put "a b" "x\n\"\\\t""#, &[b"put", b"a b", b"x\n\"\\\t"]),
            (r#"put k "\xff\x00é""#, &[b"put", b"k", b"\xff\x00\xc3\xa9"]),
            (r#"value k = """#, &[b"value", b"k", b"=", b""]),
            ("put k v#1", &[b"put", b"k", b"v#1"]),
        ];
        for (line, wanted) in cases {
            assert_eq!(split(line).unwrap(), wanted, "{line}");
        }
        for bad in [r#"put "a"#, r#"put a"b""#, r#"put "\q""#, r#"put "\x4""#] {
            assert!(split(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn conditions_say_what_they_compare() {
        let read = |line: &str| {
            let words = words(line).unwrap();
            condition(&words[0], &words[1..])
        };
        let exists = read("exists a").unwrap();
        assert_eq!(
            (exists.relation, exists.target),
            (Relation::Greater, CompareTarget::Version(0))
        );
        let less = read("mod_revision a < 7").unwrap();
        assert_eq!((less.relation, less.target), (Relation::Less, CompareTarget::Mod(Revision(7))));
        for bad in ["exists", "value a 3", "value a ~ 3", "version a = x", "equal a 3"] {
            assert!(read(bad).is_err(), "{bad} was accepted");
        }
    }
}
