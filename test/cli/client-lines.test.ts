/**
 * Each command line that is known of existing clients of Anka, as it is sent, in an order in which it has something to
 * do. What the lines of one client do together is in clients.test.ts.
 */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka, type Result } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { shellWords } from '../world/shell-words.ts';
import { missing, World } from '../world/world.ts';

/** A line with its status, 0 by default, and what it prints. `<base>` and `<name>` stand for UUIDs. */
interface Line {
  line: string;
  status?: number;
  /** Standard output. */
  out?: RegExp;
  /** Standard error. */
  says?: RegExp;
  input?: string;
}
const NO_REGISTRY = { status: 27, says: /no registry is configured/ } as const;
const NO_EFFECT = { says: /no effect|no display|no license/ } as const;
/** The same for lines that ask for JSON. */
const NO_REGISTRY_JSON = { status: 27, out: /no registry is configured/ } as const;

const GROUPS: Record<string, readonly Line[]> = {
  'Packer, while its VM is stopped': [
    { line: '--machine-readable version', out: /"product":"anka-net"/ },
    { line: '--machine-readable clone <base> new' },
    { line: '--machine-readable show new', out: /"status":"stopped"/ },
    { line: '--machine-readable show new-missing', status: 3, out: /"message":"new-missing: not found".*"code":3/ },
    { line: '--machine-readable describe new', out: /"network_cards"/ },
    { line: '--machine-readable create --app <dir>/INSTALLER made', status: 11, out: /use a qcow2 or raw disk image/ },
    { line: '--machine-readable create --app <dir>/INSTALLER --disk-size 100G --cpu-count 4 --ram-size 8G made', status: 11, out: /"status":"ERROR"/ },
    { line: '--machine-readable create --list', out: /"body":\[\]/ },
    { line: '--machine-readable license show', out: /"status":"valid"/ },
    { line: '--machine-readable modify new set hard-drive -s 120G' },
    { line: '--machine-readable modify new set ram 8G' },
    { line: '--machine-readable show new', out: /"ram":"8G".*"hard_drive":128849018880/ },
    { line: '--machine-readable modify new set ram 128M' },
    { line: '--machine-readable modify new set cpu -c 4' },
    { line: '--machine-readable show new', out: /"cpu_cores":4/ },
    { line: '--machine-readable modify new set cpu --htt', out: /--htt has no effect/ },
    { line: '--machine-readable modify new set cpu --no-htt' },
    { line: '--machine-readable modify new set cpu -c 1' },
    { line: '--machine-readable modify new add port-forwarding --host-port 0 --guest-port 22 ssh' },
    { line: '--machine-readable modify new add port-forwarding --host-port 10030 --guest-port 80 web' },
    { line: '--machine-readable modify new set custom-variable hw.uuid 5d1b40', out: /no effect/ },
    { line: '--machine-readable modify new set custom-variable hw.UUID 5d1b40', out: /no effect/ },
    { line: '--machine-readable modify new set display -c pg', out: /"status":"OK"/ },
    { line: '--machine-readable registry list', ...NO_REGISTRY_JSON },
    { line: '--machine-readable registry list-repos' },
    { line: '--machine-readable registry --remote R --cert C --key K --cacert CA --insecure pull --tag T new', ...NO_REGISTRY_JSON },
    { line: '--machine-readable registry push --tag T --description D --remote-vm V --local --force new' },
    { line: '--machine-readable registry push --tag local-tag-abc --local new' },
    { line: '--machine-readable registry pull --tag T --local --shrink new' },
    { line: '--machine-readable show new', out: /"version":"T"/ },
    { line: '--machine-readable list', out: /"name":"new"/ },
  ],
  'Packer, with its VM running': [
    { line: '--machine-readable start new' },
    { line: '--machine-readable start --update-addons new' },
    { line: 'run -n new sh -s', input: 'echo by input; nproc', out: /^by input\n1\n$/ },
    { line: 'run -n new sh', input: 'exit 6', status: 6 },
    { line: 'run -v <dir>/shared new sh -s', input: 'cat /media/shared/f', out: /^shared$/ },
    { line: 'run -n --wait-time new sh -s', input: 'echo on time', out: /^on time\n$/ },
    { line: '--log-level debug run -n new sh -s', input: 'echo x', out: /^x\n$/ },
    { line: '--debug --machine-readable show new', out: /"status":"running"/ },
    { line: '--machine-readable --debug show new', out: /"status":"running"/ },
    { line: '--machine-readable cp -pRLf <file> new:/private/tmp/script.sh' },
    { line: '--machine-readable cp -pRLf <dir>/shared new:/tmp/dst' },
    { line: '--machine-readable cp -pRLf new:/tmp/script.sh <dir>/download123' },
    { line: 'run new cat /tmp/dst/f', out: /^shared$/ },
    { line: '--machine-readable modify new mount <dir>/shared' },
    { line: '--machine-readable modify new mount <dir>/shared:guestname' },
    { line: '--machine-readable suspend new' },
    { line: '--machine-readable stop new' },
    { line: '--machine-readable stop --force new' },
    { line: '--machine-readable delete --yes new' },
  ],
  'anka-mcp, anklet': [
    { line: '--version', out: /\d+\.\d+/ },
    { line: '-j list', out: /"name":"base"/ },
    { line: '-j clone base anklet-vm-x' },
    { line: '-j show anklet-vm-x' },
    { line: '-j start anklet-vm-x' },
    { line: "run anklet-vm-x sh -c 'mkdir -p ~/.ssh'" },
    { line: '', out: /Usage: anka/ },
    { line: '-j version', out: /"version":"\d/ },
    { line: '-j license show', out: /"valid"/ },
    { line: '-j list -r', out: /anklet-vm-x/ },
    { line: '-j list --running', out: /anklet-vm-x/ },
    { line: '-j list <base>', out: /"name":"base"/ },
    { line: '-j show <base>' },
    { line: '-j show <base> tag', out: /"body":\[\]/ },
    { line: '-j cp -a <dir>/install-runner.bash anklet-vm-x:' },
    { line: '-j run anklet-vm-x bash -c ./install-runner.bash', out: /^installed\n$/ },
    { line: '-j cp -a anklet-vm-x:made <dir>/out1' },
    { line: '-j mount anklet-vm-x <dir>/shared:guest' },
    { line: 'run anklet-vm-x cat /media/guest/f', out: /^shared$/ },
    { line: 'show anklet-vm-x mount', out: /guest/ },
    { line: '-j delete --yes anklet-vm-x' },
    { line: '-j registry list', ...NO_REGISTRY_JSON },
    { line: '-j registry --remote http://r:8089 list', ...NO_REGISTRY_JSON },
    { line: '-j registry show <base>', ...NO_REGISTRY_JSON },
    { line: '-j registry show <base> --tag v1', ...NO_REGISTRY_JSON },
    { line: '-j registry pull --shrink <base> --tag v1', ...NO_REGISTRY_JSON },
    { line: '-j pull <base> --check-download-size --tag v1', ...NO_REGISTRY_JSON },
    { line: '-j pull <base> --check-download-size http://r:8089', ...NO_REGISTRY_JSON },
    { line: 'version', out: /\d+\.\d+/ },
    { line: 'modify <base> cpu 6' },
    { line: 'modify <base> ram 14G' },
    { line: 'show base', out: /14 ?G/ },
    { line: 'modify <base> cpu 1' },
    { line: 'modify <base> ram 128M' },
    { line: 'push <base> --tag 6c14r', ...NO_REGISTRY },
    { line: 'push -f -t 6c14r <base> http://r:8089', ...NO_REGISTRY },
    { line: 'pull <base>', ...NO_REGISTRY },
    { line: 'registry -a http://r pull <base>', ...NO_REGISTRY },
    { line: 'registry -r http://r show <base> tag', ...NO_REGISTRY },
    { line: 'registry -r http://r revert <base> -t v1 --yes', ...NO_REGISTRY },
    { line: 'config vm_lib_dir', out: /\/vms\n$/ },
  ],
  Buildkite: [
    { line: 'list vm', status: 3, says: /vm: not found/ },
    { line: '--debug list vm', status: 3, says: /vm: not found/ },
    { line: '--debug clone base vm', out: /cloned with uuid/ },
    { line: '--debug clone vm vm-job', out: /cloned with uuid/ },
    { line: 'list vm', out: /\| vm / },
    { line: 'stop vm' },
    { line: 'modify vm set cpu 4' },
    { line: 'modify vm set ram 8G' },
    { line: 'modify vm set network-card --mac 02:00:00:00:00:01' },
    { line: '-j show vm', out: /"cpu_cores":4.*"ram":"8G"/ },
    { line: 'modify vm set cpu 1' },
    { line: 'modify vm set ram 128M' },
    { line: 'run --env-file <file> -e BUILDKITE_AGENT_ACCESS_TOKEN=x vm true' },
    { line: 'run -e A=1 -e B=2 vm true' },
    { line: 'run --env-file <file> -e B=2 vm sh -c \'echo "$FROM_FILE $B"\'', out: /^1 2\n$/ },
    { line: "--debug run -e A=1 vm bash -c 'command -v buildkite-agent'", status: 127 },
    { line: 'cp -a <dir>/buildkite-agent vm:/usr/local/bin/' },
    { line: "--debug run -e A=1 vm bash -c 'command -v buildkite-agent'", out: /buildkite-agent\n$/ },
    {
      line: 'run -e A=1 vm script -q /dev/null buildkite-agent bootstrap --job 1 --phases checkout,command',
      status: 4,
      out: /^agent bootstrap --job 1 --phases checkout,command with A=1 on \/dev\/pts/,
    },
    { line: 'run vm sleep 10' },
    { line: 'cp -a <dir>/shared vm:/tmp/path' },
    { line: 'run vm cat /tmp/path/f', out: /^shared$/ },
    { line: 'cp -a vm:/tmp/path/. <dir>/out2' },
    { line: 'suspend vm' },
    { line: 'list vm', out: /suspended/ },
    { line: 'registry list', ...NO_REGISTRY },
    { line: 'registry list-repos -d', status: 27 },
    { line: 'registry -r R list', ...NO_REGISTRY },
    { line: 'registry pull --tag T --version 2 -s vm', ...NO_REGISTRY },
    { line: 'registry -r R pull --tag T vm', ...NO_REGISTRY },
    { line: 'delete --yes vm' },
    { line: 'delete --yes vm-job' },
  ],
  'getting-started, scripts, drone, Harness': [
    { line: 'clone base name' },
    { line: 'show name', out: /name/ },
    { line: '-j show name disk', out: /"data_size":\d+/ },
    { line: 'create --disk-size 100G other INSTALLER', status: 11, says: /qcow2 or raw/ },
    { line: 'run -N -n name bash -c true' },
    { line: '--debug run -N -n name bash -c true' },
    { line: 'cp <dir>/shared/f name:' },
    { line: 'run name cat f', out: /^shared$/ },
    { line: 'stop -f name' },
    { line: 'stop name --force' },
    { line: 'show name ip', status: 6, says: /^anka: no IP address yet\n$/ },
    { line: 'modify name set custom-variable hw.hvapic 1', ...NO_EFFECT },
    { line: 'registry list-repos' },
    { line: 'license activate -f KEY', ...NO_EFFECT },
    { line: 'config log_dir', out: /\/.+\n$/ },
    { line: 'config state_lib_dir', out: /\/.+\n$/ },
    { line: 'config', out: /net_filter|portfwd_base/ },
    { line: 'describe name', out: /name/ },
    { line: '--machine-readable start name' },
    { line: 'run name true' },
    { line: 'show name ip', out: /^192\.168\.64\.\d+\n$/ },
    { line: '--machine-readable show name', out: /"ip":"192\.168\.64\.\d+"/ },
    { line: 'cp <dir>/x.sh <name>:/tmp/x.sh' },
    { line: 'run <name> bash /tmp/x.sh', out: /^from x\n$/ },
    { line: 'modify name add port-forwarding service -g 9079' },
    { line: 'delete --yes <name>' },
  ],
  'further lines of its documentation': [
    { line: 'clone base vm' },
    { line: 'modify vm network --mode bridge' },
    { line: 'show vm network', out: /bridge/ },
    { line: 'modify vm network -v 0' },
    { line: 'modify vm delete network' },
    { line: 'modify vm add network' },
    { line: 'modify vm port ssh 22' },
    { line: 'modify vm delete port ssh' },
    { line: 'modify vm port ssh 22:0.0.0.0:50022' },
    { line: 'modify vm port ssh --set-name s2' },
    { line: 'modify vm add port ssh -g 22' },
    { line: '-j show vm port', out: /50022,[^}]*"s2".*"ssh"/ },
    { line: 'modify vm delete port -a' },
    { line: '-j show vm port', out: /"body":\[\]/ },
    { line: 'modify vm disk -s 200G' },
    { line: 'show vm disk size', out: /^200 GiB\n$/ },
    { line: 'modify vm add label a b' },
    { line: 'show vm label a', out: /^b\n$/ },
    { line: 'clone vm B C', out: /(.*cloned.*\n){2}/ },
    { line: 'show vm cpu', out: /1/ },
    { line: '--machine-readable list --field name --field version', out: /"name":"C"/ },
    { line: 'list -s', out: /\| vm / },
    { line: 'view vm', status: 28, says: /there is no display/ },
    { line: 'config -l', out: /portfwd_base/ },
    { line: 'config portfwd_base 40000' },
    { line: 'config portfwd_base', out: /40000/ },
    { line: 'config -r portfwd_base' },
    { line: 'modify vm set network-card -t bridge -b en0 0' },
    { line: '--machine-readable show vm network', out: /"bridge".*en0/ },
    { line: 'modify vm set network-card -t shared' },
    { line: 'modify vm add port-forwarding -g 22 ssh' },
    { line: 'modify vm delete port-forwarding ssh' },
    { line: 'modify vm set network-card --direct-mac', ...NO_EFFECT },
    { line: 'modify vm set network-card -n' },
    { line: 'modify vm delete network-card' },
    { line: 'modify vm add network-card' },
    { line: 'start -u vm' },
    { line: 'start -v vm', ...NO_EFFECT },
    { line: 'run -D /tmp vm pwd', out: /^\/tmp\n$/ },
    { line: 'run -q vm env', out: /^$/ },
    { line: 'run -f <file> vm env', out: /^FROM_FILE=1$/m },
    { line: 'cp -v <file> vm:b', says: /file/ },
    { line: 'show vm mount' },
    { line: 'run vm cat b', out: /^FROM_FILE=1\n$/ },
    { line: 'reboot -f vm' },
    { line: 'run vm true' },
    { line: 'delete --yes --all' },
    { line: '-j list', out: /"body":\[\]/ },
  ],
};

const why = missing('root', 'netns', 'tun', 'qemu');

describe.skipIf(why !== null)(`lines of clients${why === null ? '' : `: ${why}`}`, () => {
  let w: World;
  let anka: Anka;
  const uuids: Record<string, string> = {};

  beforeAll(async () => {
    w = new World('ll-');
    anka = new Anka(w, await tinyGuest());
    await anka.ok('create -m 128M -c 1 -d 1G base');
    mkdirSync(join(w.dir, 'shared'));
    writeFileSync(join(w.dir, 'shared/f'), 'shared');
    writeFileSync(join(w.dir, 'file'), 'FROM_FILE=1\n');
    writeFileSync(join(w.dir, 'x.sh'), 'echo from x\n');
    for (const [name, text] of [
      ['install-runner.bash', 'echo installed | tee made'],
      ['buildkite-agent', 'echo "agent $* with A=$A on $(tty)"; exit 4'],
    ] as const) {
      writeFileSync(join(w.dir, name), `#!/bin/sh\n${text}\n`);
      chmodSync(join(w.dir, name), 0o755);
    }
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  async function send(line: string, input?: string): Promise<Result> {
    const vm = /<(base|name)>/.exec(line)?.[1];
    if (vm) uuids[vm] ??= (await anka.ok(`show ${vm} uuid`)).trim();
    const filled = line
      .replace(/<(base|name)>/, (_all, name: string) => uuids[name] as string)
      .replaceAll('<dir>', w.dir)
      .replaceAll('<file>', join(w.dir, 'file'));
    return anka.run(shellWords(filled), input === undefined ? {} : { input });
  }

  for (const [group, lines] of Object.entries(GROUPS))
    describe(group, () => {
      for (const { line, status = 0, out, says, input } of lines)
        test(`anka ${line}`, async () => {
          const r = await send(line, input);
          expect(r.status, r.stderr + r.stdout).toBe(status);
          if (out) expect(r.stdout.replaceAll('\r', '')).toMatch(out);
          if (says) expect(r.stderr).toMatch(says);
          if (/(^| )(-j|--machine-readable) (?!run )/.test(line))
            expect(JSON.parse(r.stdout.split('\n').at(-1) as string)).toMatchObject({ status: status === 0 ? 'OK' : 'ERROR', code: status });
        });
    });
});
