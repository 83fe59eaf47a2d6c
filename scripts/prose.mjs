// Checks the text around the code: comments end at column 120, and no line uses a word that docs/style.md rules out.
// Markdown is wrapped by prettier (`npm run lint`). `--write` wraps long comments; wording is left to the author.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const WIDTH = 120;
/** Words and phrases that have a better one; docs/style.md gives it. */
const WORDS = [/\btell(s|ing)?\b/i, /\btold\b/i, /by no trick/i, /given out by itself/i, /\bmend(s|ed|ing)?\b/i, /\bone's own\b/i];
/** Files that have to name those words. */
const EXEMPT = ['scripts/prose.mjs', 'docs/style.md'];

const root = fileURLToPath(new URL('..', import.meta.url));
const write = process.argv.includes('--write');
const problems = [];

/** Comments of a TypeScript or JavaScript text, in order. Only the parser knows a comment from a template's or a regular expression's text. */
function commentsOf(text, name) {
  const file = ts.createSourceFile(name, text, ts.ScriptTarget.Latest, true);
  const found = new Map();
  const visit = (node) => {
    const children = node.getChildren(file);
    if (children.length > 0) return children.forEach(visit);
    const ranges = [ts.getLeadingCommentRanges(text, node.pos), ts.getTrailingCommentRanges(text, node.end)];
    for (const range of ranges.flat()) if (range) found.set(range.pos, range);
  };
  visit(file);
  return [...found.values()].sort((a, b) => a.pos - b.pos);
}

/** Words in lines of at most `width`, where a continued list item is indented by two more. */
function fill(words, width, rest) {
  const lines = [];
  for (const word of words) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(last === undefined ? word : rest + word);
  }
  return lines;
}

/** Paragraphs of a comment, each filled; lists keep their items, and what is indented by four or more keeps its lines. */
function rewrap(lines, width) {
  const out = [];
  let paragraph = [];
  const flush = () => {
    if (paragraph.length > 0) out.push(...fill(paragraph.join(' ').split(/\s+/), width, /^(-|\*|\d+\.)\s/.test(paragraph[0]) ? '  ' : ''));
    paragraph = [];
  };
  for (const line of lines) {
    if (line.trim() === '' || /^ {4}/.test(line)) {
      flush();
      out.push(line.trimEnd());
      continue;
    }
    if (/^\s*(-|\*|\d+\.|@\w+)\s/.test(line)) flush();
    paragraph.push(line.trim());
  }
  flush();
  return out;
}

/** The text with its long comments wrapped; comments behind code move to a line of their own. */
function wrapped(text, name) {
  const comments = commentsOf(text, name);
  const column = (at) => at - (text.lastIndexOf('\n', at - 1) + 1);
  const isLong = (c) =>
    text
      .slice(c.pos, c.end)
      .split('\n')
      .some((l, i) => (i === 0 ? column(c.pos) : 0) + l.length > WIDTH);
  const edits = [];
  for (let i = 0; i < comments.length; i++) {
    const c = comments[i];
    const start = text.lastIndexOf('\n', c.pos - 1) + 1;
    const indent = /^\s*/.exec(text.slice(start, c.pos))[0];
    const alone = start + indent.length === c.pos;
    if (c.kind === ts.SyntaxKind.SingleLineCommentTrivia) {
      const run = [c];
      if (alone) {
        while (comments[i + 1]?.kind === c.kind && text.slice(run.at(-1).end, comments[i + 1].pos) === `\n${indent}`) run.push(comments[++i]);
      }
      if (!run.some(isLong)) continue;
      const lines = rewrap(
        run.map((r) => text.slice(r.pos + 2, r.end).replace(/^ /, '')),
        WIDTH - indent.length - 3,
      );
      const made = lines.map((l) => `${indent}// ${l}`.trimEnd()).join('\n');
      if (alone) edits.push([start, run.at(-1).end, made]);
      else edits.push([start, c.end, `${made}\n${text.slice(start, c.pos).trimEnd()}`]);
      continue;
    }
    if (!isLong(c) || !alone) continue;
    const body = text
      .slice(c.pos, c.end)
      .replace(/^\/\*\*?\s?/, '')
      .replace(/\s*\*\/$/, '');
    const lines = rewrap(
      body.split('\n').map((l) => l.replace(/^\s*\* ?/, '')),
      WIDTH - indent.length - 3,
    );
    while (lines[0] === '') lines.shift();
    edits.push([c.pos, c.end, ['/**', ...lines.map((l) => `${indent} * ${l}`.trimEnd()), `${indent} */`].join('\n')]);
  }
  for (const [from, to, made] of edits.reverse()) text = text.slice(0, from) + made + text.slice(to);
  return text;
}

const files = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], { cwd: root, encoding: 'utf8' }).split('\n');
for (const name of files.filter((f) => /\.(ts|mjs|js|c|h|sh|py|md)$/.test(f) && !EXEMPT.includes(f))) {
  let text = readFileSync(join(root, name), 'utf8');
  const isScript = /\.(ts|mjs|js)$/.test(name);
  if (isScript && write) {
    const neat = wrapped(text, name);
    if (neat !== text) writeFileSync(join(root, name), neat);
    text = neat;
  }
  const lines = text.split('\n');
  const long = (line) => problems.push(`${name}:${line}: a comment reaches beyond column ${WIDTH}`);
  if (isScript) {
    for (const c of commentsOf(text, name)) {
      const first = text.slice(0, c.pos).split('\n').length;
      const last = first + text.slice(c.pos, c.end).split('\n').length - 1;
      const column = (line) => (line === last ? c.end - (text.lastIndexOf('\n', c.end - 1) + 1) : lines[line - 1].length);
      for (let line = first; line <= last; line++) if (column(line) > WIDTH) long(line);
    }
  } else if (!name.endsWith('.md')) {
    lines.forEach((l, i) => {
      if (l.length > WIDTH && /^\s*(\/\/|\/?\*|#)/.test(l)) long(i + 1);
    });
  }
  if (name.startsWith('test/')) continue;
  lines.forEach((l, i) => {
    for (const word of WORDS) if (word.test(l)) problems.push(`${name}:${i + 1}: "${word.exec(l)[0]}" (docs/style.md has a better word)`);
  });
}
for (const p of problems) console.error(p);
process.exit(problems.length === 0 ? 0 : 1);
