/**
 * The shell line that mounts a shared directory in a guest. Pure.
 *
 * Theory of operation. ssh runs the line as the guest's login user; its standard input and output are the SFTP stream
 * to the host. The line becomes root by sudo, and gives the stream to sshfs (`-o passive`). Its first line of standard
 * error that begins with `anka-mount: ` is the outcome. When the stream ends, sshfs unmounts and exits, and the line
 * removes the mount point. `/run/anka-mount/NAME` holds sshfs's pid: a later line for the same name, as after a resume,
 * kills an earlier sshfs, and takes over its mount point.
 *
 * Limits: a guest with a POSIX shell, `/proc`, sudo (or a login as root), FUSE and sshfs. Attributes and names are
 * cached for a second; file content as long as a file is open. All users of the guest may use the mount.
 */
import { shellQuote } from './guest-ssh.ts';
import { guestPath } from './mount-spec.ts';

/** What the guest's line reports, and what it means as a clause. */
export const MOUNT_OUTCOMES = {
  ok: '',
  'no-sudo': 'the login user of the guest cannot become root with sudo',
  'no-sshfs': 'the guest has no sshfs',
  'no-fuse': "the guest's kernel has no FUSE",
  busy: 'the mount point in the guest is in use',
  failed: 'sshfs failed in the guest',
} as const;

export type MountOutcome = keyof typeof MOUNT_OUTCOMES;

/** Seconds that sshfs has to mount. */
const MOUNT_S = 60;

/** As root. Arguments: name, mount point, `ro` or `rw`, the login user's uid and gid. */
const AS_ROOT = `
name=$1 at=$2 access=$3 user=$4 group=$5
PATH=$PATH:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
pid_file=/run/anka-mount/$name
report() { echo "anka-mount: $1" >&2; }
mounted() { grep -q " $at fuse.sshfs " /proc/mounts; }
command -v sshfs >/dev/null || { report no-sshfs; exit 1; }
[ -c /dev/fuse ] || modprobe fuse 2>/dev/null
[ -c /dev/fuse ] || { report no-fuse; exit 1; }
mkdir -p /run/anka-mount
if read -r old 2>/dev/null <"$pid_file"; then
  rm -f "$pid_file"
  [ "$(cat "/proc/$old/comm" 2>/dev/null)" = sshfs ] && kill -9 "$old"
fi
while mounted; do umount -l "$at" || break; done
if [ -L "$at" ] || ! mkdir -p "$at" || [ -n "$(ls -A "$at")" ] || mounted; then report busy; exit 1; fi
exec 3<&0 4>&1
sshfs anka:/ "$at" -f -o "passive,$access,allow_other,nosuid,nodev,fsname=anka:$name,uid=$user,gid=$group,dcache_timeout=1" <&3 >&4 3<&- 4>&- &
pid=$!
exec 3<&- 4>&- </dev/null >/dev/null
echo "$pid" >"$pid_file"
tries=0
until mounted; do
  case "$(cat "/proc/$pid/stat" 2>/dev/null)" in *") Z "* | '') report failed; exit 1 ;; esac
  tries=$((tries + 1))
  [ "$tries" -lt ${MOUNT_S * 10} ] || { kill -9 "$pid"; report failed; exit 1; }
  sleep 0.1 2>/dev/null || sleep 1
done
report ok
wait "$pid"
[ "$(cat "$pid_file" 2>/dev/null)" = "$pid" ] || exit 0
rm -f "$pid_file"
while mounted; do umount -l "$at" || break; done
rmdir "$at"
`;

/** Mounts the stream's directory as `/media/NAME`. `name` was checked before. */
export function mountInGuest(name: string, readOnly: boolean): string {
  const words = ['sh', '-c', AS_ROOT, 'anka-mount', name, guestPath(name), readOnly ? 'ro' : 'rw'].map(shellQuote).join(' ');
  const ids = '"$(id -u)" "$(id -g)"';
  const sudo = '{ command -v sudo >/dev/null && sudo -n true 2>/dev/null </dev/null; } || { echo "anka-mount: no-sudo" >&2; exit 1; }';
  return `exec sh -c ${shellQuote(`if [ "$(id -u)" = 0 ]; then exec ${words} ${ids}; fi; ${sudo}; exec sudo -n ${words} ${ids}`)}`;
}

/** The outcome in what the guest has written to standard error so far; null if there is none yet. */
export function outcomeIn(text: string): MountOutcome | null {
  const word = /^anka-mount: ([a-z-]+)\r?$/m.exec(text)?.[1];
  return word !== undefined && Object.hasOwn(MOUNT_OUTCOMES, word) ? (word as MountOutcome) : null;
}
