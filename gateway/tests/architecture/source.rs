//! A Rust file as tokens: enough of a lexer to tell code from comments and strings.

/// One token of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// An identifier or keyword.
    Word(String),
    /// A `::`.
    Path,
    /// Any other punctuation, one character at a time; literals appear as `"`.
    Mark(char),
}

/// A token and its line, from 1.
pub(crate) type Placed = (Token, usize);

/// A file, lexed.
pub(crate) struct SourceFile {
    /// Its path from the workspace's root.
    pub(crate) path: String,
    /// Its code.
    pub(crate) tokens: Vec<Placed>,
    /// For every line: the text of its comments, and whether code stands on it too.
    pub(crate) comments: Vec<CommentLine>,
    /// How many lines it has.
    pub(crate) lines: usize,
    /// Plain string literals as written: the index of their token, and what stands between the quotes.
    pub(crate) strings: Vec<(usize, String)>,
}

/// What one line holds besides code.
#[derive(Clone, Debug, Default)]
pub(crate) struct CommentLine {
    /// Comment text on this line.
    pub(crate) text: String,
    /// Whether a comment stands here.
    pub(crate) comment: bool,
    /// Whether code stands here.
    pub(crate) code: bool,
    /// Whether the first token here opens an attribute.
    pub(crate) attribute: bool,
}

impl SourceFile {
    /// Lexes `text`.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let mut lexer = Lexer::new(text);
        lexer.run();
        let mut comments = lexer.comments;
        for (token, line) in &lexer.tokens {
            let entry = &mut comments[*line - 1];
            entry.attribute |= !entry.code && *token == Token::Mark('#');
            entry.code = true;
        }
        Self {
            path: path.to_owned(),
            tokens: lexer.tokens,
            comments,
            lines: text.lines().count(),
            strings: lexer.strings,
        }
    }

    /// Whether the keyword `unsafe` stands anywhere.
    pub(crate) fn has_unsafe(&self) -> bool {
        self.tokens.iter().any(|(token, _)| token.is("unsafe"))
    }

    /// Whether the file as a whole is test code.
    pub(crate) fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part == "tests" || part == "tests.rs")
    }

    /// The module path of the file within its crate, such as `["core", "link"]`.
    pub(crate) fn module(&self) -> Vec<String> {
        let inside = self.path.split_once("/src/").map_or("", |(_, inside)| inside);
        let mut parts: Vec<String> = inside
            .trim_end_matches(".rs")
            .split('/')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
            parts.pop();
        }
        parts
    }
}

impl Token {
    /// Whether this is the word `word`.
    pub(crate) fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(own) if own == word)
    }

    /// The word, if it is one.
    pub(crate) fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            _ => None,
        }
    }
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    tokens: Vec<Placed>,
    comments: Vec<CommentLine>,
    strings: Vec<(usize, String)>,
}

impl Lexer {
    fn new(text: &str) -> Self {
        let lines = text.matches('\n').count() + 2;
        Self {
            chars: text.chars().collect(),
            at: 0,
            line: 1,
            tokens: Vec::new(),
            comments: vec![CommentLine::default(); lines],
            strings: Vec::new(),
        }
    }

    fn run(&mut self) {
        while let Some(next) = self.peek(0) {
            match next {
                '/' if self.peek(1) == Some('/') => self.line_comment(),
                '/' if self.peek(1) == Some('*') => self.block_comment(),
                '"' => self.string(),
                '\'' => self.quote(),
                c if c.is_whitespace() => self.skip(1),
                c if c.is_alphabetic() || c == '_' => self.word(),
                c if c.is_ascii_digit() => self.number(),
                ':' if self.peek(1) == Some(':') => {
                    self.push(Token::Path);
                    self.skip(2);
                }
                c => {
                    self.push(Token::Mark(c));
                    self.skip(1);
                }
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            if self.peek(0) == Some('\n') {
                self.line += 1;
            }
            self.at += 1;
        }
    }

    /// Takes one character into the comment text of its line.
    fn comment_char(&mut self) {
        let entry = &mut self.comments[self.line - 1];
        entry.comment = true;
        if let Some(&c) = self.chars.get(self.at).filter(|c| **c != '\n') {
            entry.text.push(c);
        }
        self.skip(1);
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|c| c != '\n') {
            self.comment_char();
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while self.peek(0).is_some() {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.comment_char();
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.comment_char();
                }
                _ => {}
            }
            self.comment_char();
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) {
        let index = self.tokens.len();
        self.push(Token::Mark('"'));
        self.skip(1);
        let start = self.at;
        while let Some(c) = self.peek(0) {
            match c {
                '\\' => self.skip(2),
                '"' => {
                    self.strings.push((index, self.chars[start..self.at].iter().collect()));
                    return self.skip(1);
                }
                _ => self.skip(1),
            }
        }
    }

    /// `r"..."`, `r#"..."#` and so on; the cursor stands on the first `#` or `"`.
    fn raw_string(&mut self) {
        self.push(Token::Mark('"'));
        let mut hashes = 0;
        while self.peek(0) == Some('#') {
            hashes += 1;
            self.skip(1);
        }
        self.skip(1);
        while let Some(c) = self.peek(0) {
            self.skip(1);
            if c == '"' && (0..hashes).all(|ahead| self.peek(ahead) == Some('#')) {
                return self.skip(hashes);
            }
        }
    }

    /// A character literal, or a lifetime.
    fn quote(&mut self) {
        let lifetime =
            self.peek(1).is_some_and(|c| c.is_alphabetic() || c == '_') && self.peek(2) != Some('\'');
        self.skip(1);
        if lifetime {
            while self.peek(0).is_some_and(|c| c.is_alphanumeric() || c == '_') {
                self.skip(1);
            }
            return;
        }
        self.push(Token::Mark('"'));
        while let Some(c) = self.peek(0) {
            match c {
                '\\' => self.skip(2),
                '\'' => return self.skip(1),
                _ => self.skip(1),
            }
        }
    }

    fn word(&mut self) {
        let start = self.at;
        while self.peek(0).is_some_and(|c| c.is_alphanumeric() || c == '_') {
            self.skip(1);
        }
        let word: String = self.chars[start..self.at].iter().collect();
        let raw = ["r", "br", "cr"].contains(&word.as_str());
        let quoted = ["b", "c"].contains(&word.as_str());
        match self.peek(0) {
            Some('"') if raw => self.raw_string(),
            Some('#') if raw && matches!(self.peek(1), Some('"' | '#')) => self.raw_string(),
            // A raw identifier, such as r#type.
            Some('#') if word == "r" => {
                self.skip(1);
                self.word();
            }
            Some('"') if quoted => self.string(),
            Some('\'') if word == "b" => self.quote(),
            _ => self.push(Token::Word(word)),
        }
    }

    fn number(&mut self) {
        // Digits, suffixes, and a fraction, but not the dots of a range or a method call.
        while self.peek(0).is_some_and(|c| c.is_alphanumeric() || c == '_')
            || (self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()))
        {
            self.skip(1);
        }
    }
}
