//! The README shows what the crate's documentation runs.

/// The code of each `rust` block, without the lines that readers do not see.
fn blocks(text: &str) -> Vec<String> {
    let code = |block: &str| {
        let lines = block.lines().skip(1).filter(|line| !line.starts_with("# "));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    text.split("```rust").skip(1).filter_map(|rest| rest.split("```").next()).map(code).collect()
}

#[test]
fn the_snippets_of_the_readme_are_those_that_run() {
    let readme = blocks(include_str!("../../README.md"));
    let run = blocks(include_str!("../src/docs/embed.md"));
    assert_eq!(readme.len(), 2);
    assert_eq!(readme, run);
}
