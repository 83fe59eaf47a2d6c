/**
 * The shell line that runs a command in a guest. Pure.
 *
 * Theory of operation. sshd does not stop a command without a terminal when its connection is lost (OpenSSH bug 396).
 * So a shell in the guest runs the command, and a background loop looks each second whether the shell still has its
 * first parent, the connection's own sshd process. Once it has not, the loop sends SIGHUP to the process group: the
 * command ends as it would with its terminal, unless it ignores SIGHUP (nohup(1)). The shell also turns the end of the
 * command by a signal into the status 128 + number, which ssh(1) does not pass on.
 *
 * Limits: a guest with `/proc` and a POSIX shell; without `/proc` nothing is watched. The process group is that of the
 * shell (OpenSSH) or of its parent (Dropbear, one process per connection); in any other it is left alone.
 */
import { shellQuote } from './guest-ssh.ts';

/** Seconds between two looks. */
const LOOK_S = 1;

/** A shell script; its arguments are the words of the command. */
const WATCHED = `
read -r _ _ _ parent group _ </proc/$$/stat
(
  trap "" INT QUIT
  while sleep ${LOOK_S} && read -r _ _ _ now _ </proc/$$/stat; do
    [ "$now" = "$parent" ] && continue
    case "$group" in $$ | "$parent") kill -HUP "-$group" ;; esac
    break
  done
) </dev/null >/dev/null 2>&1 &
trap : INT QUIT
"$@"
status=$?
kill $! 2>/dev/null
exit $status
`;

const watched = (command: string): string => `exec sh -c ${shellQuote(WATCHED)} sh ${command}`;

/** Runs these words as one command. */
export function wordsInGuest(words: readonly string[]): string {
  return watched(words.map(shellQuote).join(' '));
}

/** Has the guest's login shell parse this line, as ssh(1) does. */
export function lineInGuest(line: string): string {
  return watched(`"$SHELL" -c ${shellQuote(line)}`);
}

/** Runs the words in the background, without terminal and output; prints their process id. They outlive the login. */
export function backgroundInGuest(words: readonly string[]): string {
  return `exec sh -c ${shellQuote('setsid "$@" </dev/null >/dev/null 2>&1 & echo $!')} sh ${words.map(shellQuote).join(' ')}`;
}
