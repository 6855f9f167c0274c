//! Sizes: files, functions, lines.

use super::{Finding, RustFile};

/// Lines of a file that are not tests.
const FILE_LINES_MAX: usize = 600;
/// Lines of a file, or of a part of one, that are tests.
const TEST_LINES_MAX: usize = 900;
/// Lines of a function; one-line arms of a dispatch `match` do not count.
const FUNCTION_LINES_MAX: usize = 70;
/// Columns. rustfmt leaves comments and strings alone, so this looks at every line.
const COLUMNS_MAX: usize = 100;

pub(super) fn check(file: &RustFile<'_>, found: &mut Vec<Finding>) {
    let path = file.path;
    let lines: Vec<&str> = file.source.text.lines().collect();
    let tests = file.in_tests.iter().take(lines.len()).filter(|is| **is).count();
    for (count, max, what) in [
        (lines.len() - tests, FILE_LINES_MAX, "lines without tests"),
        (tests, TEST_LINES_MAX, "lines of tests"),
    ] {
        if count > max {
            let text = format!("{count} {what}, limit {max}");
            found.push(Finding::new("file-size", path, 0, text));
        }
    }
    for function in file.source.functions() {
        let body = &file.code_lines[function.lines.clone()];
        let count = body.len() - body.iter().filter(|line| is_one_line_arm(line)).count();
        if count > FUNCTION_LINES_MAX {
            let text = format!(
                "function `{}` has {count} lines, limit {FUNCTION_LINES_MAX}",
                function.name
            );
            found.push(Finding::new("function-size", path, function.lines.start + 1, text));
        }
    }
    for (at, line) in lines.iter().enumerate() {
        let columns = line.chars().count();
        // An address cannot be broken.
        if columns > COLUMNS_MAX && !line.contains("://") {
            let text = format!("{columns} columns, limit {COLUMNS_MAX}");
            found.push(Finding::new("width", path, at + 1, text));
        }
    }
}

/// `Pattern => expression,` on one line.
fn is_one_line_arm(line: &str) -> bool {
    line.contains(" => ") && line.trim_end().ends_with(',')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::all;
    use crate::tree::Tree;

    fn rules(path: &str, text: &str) -> Vec<(&'static str, usize)> {
        all(&Tree::of(&[(path, text)])).iter().map(|f| (f.rule, f.line)).collect()
    }

    #[test]
    fn long_files_are_found_and_tests_counted_apart() {
        let code = "fn a() {}\n".repeat(FILE_LINES_MAX);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "fn a() {}\n".repeat(800));
        assert_eq!(rules("crates/x/src/a.rs", &(code.clone() + &tests)), []);
        assert_eq!(rules("crates/x/src/a.rs", &(code.clone() + "\n")), [("file-size", 0)]);
        assert_eq!(rules("crates/x/src/a/tests.rs", &(code.clone() + "\n")), []);
        assert_eq!(rules("crates/x/tests/a.rs", &(code.clone() + &code)), [("file-size", 0)]);
    }

    #[test]
    fn a_module_declared_for_tests_is_test_code() {
        let long = "fn a() {}\n".repeat(FILE_LINES_MAX + 1);
        let parent = ("crates/x/src/a.rs", "#[cfg(test)]\nmod walk;\n");
        let found = all(&Tree::of(&[parent, ("crates/x/src/a/walk.rs", &long)]));
        assert_eq!(found, []);
    }

    #[test]
    fn long_functions_are_found_and_one_line_arms_do_not_count() {
        let body = "    a();\n".repeat(FUNCTION_LINES_MAX - 1);
        let long = format!("\nfn f() {{\n{body}}}\n");
        assert_eq!(rules("crates/x/src/a.rs", &long), [("function-size", 2)]);
        let arms = "        A => a(),\n".repeat(200);
        let dispatch = format!("fn f() {{\n    match x {{\n{arms}    }}\n}}\n");
        assert_eq!(rules("crates/x/src/a.rs", &dispatch), []);
    }

    #[test]
    fn wide_lines_are_found_in_comments_too() {
        let wide = format!("// {}\n", "x".repeat(COLUMNS_MAX - 2));
        assert_eq!(rules("crates/x/src/a.rs", &wide), [("width", 1)]);
        assert_eq!(rules("crates/x/src/a.rs", &wide.replace("xxxx", "a://")), []);
    }
}
