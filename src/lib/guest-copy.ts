/**
 * Copies between host and guest as cp(1) does them: what is sent, and the shell scripts of the guest's side. Pure.
 *
 * Theory of operation. One login copies one source, as a tar stream: a directory's contents, or one file or link. So
 * names, modes, times and links pass, and the guest needs only tar and a POSIX shell. The receiving side applies the
 * rules of cp(1): into a directory that exists, else under the name of the destination. A file is extracted beside its
 * destination and then renamed, so that nobody sees half of it. The guest begins a download with one line that says
 * what follows.
 *
 * Limits: regular files, directories and symbolic links; a wildcard in the guest's path is expanded in its last
 * component only.
 */

export interface CopyOptions {
  recursive: boolean;
  /** Symbolic links that are followed: none, those among the operands, or all. */
  follow: 'none' | 'operands' | 'all';
  /** Keep modes and times. */
  preserve: boolean;
  /** Leave files that exist as they are. */
  keepExisting: boolean;
  /** Print each name. */
  verbose: boolean;
}

/** What one source is: `c`, the contents of a directory; `d`, a directory; `f`, a file or a link; `m`, several. */
export type CopyKind = 'c' | 'd' | 'f' | 'm';

/** From the options of cp(1), by letter or long name. `-a` is `-pPR`; `-f` is what a copy does anyway. */
export function copyOptions(flags: Readonly<Record<string, unknown>>): CopyOptions {
  const on = (name: string): boolean => flags[name] === true;
  return {
    recursive: on('recursive') || on('R') || on('archive'),
    follow: on('L') ? 'all' : on('H') ? 'operands' : 'none',
    preserve: on('preserve') || on('archive'),
    keepExisting: on('n'),
    verbose: on('verbose'),
  };
}

/** Whether an operand stands for the contents of a directory, as in BSD's cp: `dir/`, `dir/.`, `.`. */
export const isContents = (path: string): boolean => /(^|\/)\.{0,2}$/.test(path) && path !== '';

/** The last component of a path. */
export const baseName = (path: string): string => path.replace(/\/+$/, '').split('/').at(-1) ?? '';

const HOME_OF = `case "$1" in "~") set -- "$HOME" "$2" "$3" "$4" ;; "~/"*) set -- "$HOME/\${1#\\~/}" "$2" "$3" "$4" ;; esac`;

/**
 * The guest's side of an upload; its standard input is the stream. Arguments: destination, name of the source, the kind
 * with the letters `p` (preserve), `n` (keep existing files) and `i` (the destination must be a directory), and the
 * mode of a directory that is created; empty: the default.
 */
export const RECEIVE = `
${HOME_OF}
fail() { echo "anka cp: $*" >&2; cat >/dev/null; exit 1; }
t=\${1:-.}
case $3 in *p*) o=xopf ;; *) o=xomf ;; esac
case $3 in *n*) k=-k ;; *) k= ;; esac
case $3 in *i*) [ -d "$t" ] || fail "$t: not a directory" ;; esac
case $3 in
c*) ;;
*) [ -d "$t" ] && t=\${t%/}/$2 ;;
esac
case $3 in
f*)
  case $1 in */) [ -d "$1" ] || fail "$1: not a directory" ;; esac
  [ -d "$t" ] && fail "$t: is a directory"
  [ -n "$k" ] && { [ -e "$t" ] || [ -L "$t" ]; } && { cat >/dev/null; exit 0; }
  w=
  trap 'rm -rf "$w"' EXIT
  trap 'exit 1' HUP INT TERM
  # a file that is not in a writable directory, or behind a link, is written in place
  if [ ! -L "$t" ] && w=$(mktemp -d "$(dirname -- "$t")/.anka-cp.XXXXXX" 2>/dev/null); then
    tar -C "$w" -$o - && mv -f -- "$w/$2" "$t"
  else
    [ -d "$(dirname -- "$t")" ] || fail "$t: no such directory"
    w=$(mktemp -d) && tar -C "$w" -$o - && cp -f -- "$w/$2" "$t"
  fi
  ;;
*)
  if [ -d "$t" ]; then :; elif [ -e "$t" ] || [ -L "$t" ]; then fail "$t: not a directory"; else mkdir -- "$t" || fail "cannot create $t"; [ -z "$4" ] || chmod -- "$4" "$t"; fi
  tar -C "$t" $k -$o -
  ;;
esac
`;

/**
 * The guest's side of a download. Arguments: source, an empty word, and the letters `r` (recursive), `L` and `H` (links
 * to follow). Prints `anka-copy KIND` and a newline, then the stream.
 */
export const SEND = `
${HOME_OF}
fail() { echo "anka cp: $*" >&2; exit 1; }
s=\${1:-.}
h=
case $3 in *L*) h=h ;; esac
link=
case $s in */) c=c ;; */.|*/..|.|..) c=c ;; *) c= ;; esac
begin() { echo "anka-copy $1"; }
if [ ! -e "$s" ] && [ ! -L "$s" ]; then
  case \${s##*/} in *[*?[]*) ;; *) fail "$s: no such file or directory" ;; esac
  cd -- "$(dirname -- "$s")" || exit 1
  IFS=
  set -- "$3" $(printf %s "\${s##*/}")
  l=$1; shift
  [ -e "$1" ] || fail "$s: no such file or directory"
  case $l in *r*) ;; *) for f; do [ -d "$f" ] && fail "$f: is a directory; use -r to copy it"; done ;; esac
  begin m
  exec tar -c\${h}f - -- "$@"
fi
if [ -L "$s" ] && [ -z "$c" ]; then
  case $3 in *[LH]*) h=h ;; *) link=1 ;; esac
fi
if [ -z "$link" ] && [ -d "$s" ]; then
  case $3 in *r*) ;; *) fail "$s: is a directory; use -r to copy it" ;; esac
  begin \${c:-d}
  case $3 in *L*) h=h ;; *) h= ;; esac
  exec tar -C "$s" -c\${h}f - .
fi
[ -n "$link" ] || [ -f "$s" ] || fail "$s: not a regular file"
begin f
cd -- "$(dirname -- "$s")" && exec tar -c\${h}f - -- "\${s##*/}"
`;

/** The letters for `RECEIVE`. */
export const receiveFlags = (kind: CopyKind, o: CopyOptions, several: boolean): string =>
  `${kind}${o.preserve ? 'p' : ''}${o.keepExisting ? 'n' : ''}${several ? 'i' : ''}`;

/** The letters for `SEND`. */
export const sendFlags = (o: CopyOptions): string => `${o.recursive ? 'r' : ''}${o.follow === 'all' ? 'L' : o.follow === 'operands' ? 'H' : ''}-`;

/** Options of the host's tar, when it extracts what a guest has sent: no owner, no set-user-ID bit, no path outside. */
export function extractOptions(o: CopyOptions): string[] {
  return [
    ...['--no-same-owner', '--no-same-permissions', '--delay-directory-restore'],
    ...(o.preserve ? [] : ['--touch']),
    ...(o.keepExisting ? ['--skip-old-files'] : []),
    ...(o.verbose ? ['--verbose'] : []),
  ];
}

/** The kind in the first line of a download; null if a guest sends anything else. */
export function kindOf(line: string): CopyKind | null {
  const m = /^anka-copy ([cdfm])$/.exec(line);
  return m ? (m[1] as CopyKind) : null;
}
