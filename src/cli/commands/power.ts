/** `anka start`, `stop`, `suspend` and `reboot`. */
import type { VmShow } from '../../api/types.ts';
import { parseMount } from '../../lib/mount-spec.ts';
import { integer } from '../arguments.ts';
import { pairs } from '../output/grid.ts';
import { type Session, vmPath } from '../session.ts';
import { shareDirectory } from './mount.ts';
import { forEachVm, type Selection, selectVms } from './selection.ts';

/** Default of `start --wait`, seconds. */
const DEFAULT_WAIT_S = 300;

export interface StartOptions extends Selection {
  /** Seconds; `true`: the default. A word that is no number is the name of a VM. */
  wait?: string | true;
  mount: readonly string[];
}

export async function start(s: Session, operands: readonly string[], o: StartOptions): Promise<void> {
  for (const dir of o.mount) parseMount(dir); // nothing is started if one is wrong
  const isName = typeof o.wait === 'string' && !/^\d+$/.test(o.wait);
  const names = isName ? [o.wait as string, ...operands] : operands;
  const seconds = o.wait === undefined ? null : o.wait === true || isName ? DEFAULT_WAIT_S : integer('--wait', o.wait, { low: 1, high: 86_400 });
  const daemon = await s.daemon();
  const refs = await selectVms(s, names, o, ['stopped', 'suspended', 'failed']);
  const body = await forEachVm(s, refs, async (ref) => {
    const vm = await daemon.post<VmShow>(
      vmPath(ref, '/start'),
      {},
      // a rule that got another host port stays on the screen
      { onProgress: (p) => (p.step.startsWith('rule ') ? s.out.note(p.step) : s.out.progress(`${ref}: ${p.step}`, p.fraction)) },
    );
    for (const dir of o.mount) await shareDirectory(s, ref, dir);
    if (seconds === null) return vm;
    s.out.progress(`${ref}: waiting for an IP address`);
    return daemon.post<VmShow>(vmPath(ref, '/wait'), { until: 'ip', timeout: seconds });
  });
  if (refs.length !== 1) return s.out.done({}, `started ${refs.length} VMs`);
  const vm = body as VmShow;
  s.out.done(vm, pairs([['uuid', vm.uuid], ['name', vm.name], ['status', vm.status], ...(seconds !== null && vm.ip ? ([['ip', vm.ip]] as const) : [])]));
}

export async function stop(s: Session, names: readonly string[], o: Selection & { force?: boolean }): Promise<void> {
  const daemon = await s.daemon();
  const refs = await selectVms(s, names, o, ['running', 'suspended']);
  await forEachVm(s, refs, (ref) => daemon.post(vmPath(ref, '/stop'), { force: o.force ?? false }, s.out.reporting(`${ref}: `)));
  s.out.done({});
}

export async function suspend(s: Session, names: readonly string[], o: Selection): Promise<void> {
  const daemon = await s.daemon();
  const refs = await selectVms(s, names, o, ['running']);
  await forEachVm(s, refs, (ref) => daemon.post(vmPath(ref, '/suspend'), {}, s.out.reporting(`${ref}: `)));
  s.out.done({});
}

export async function reboot(s: Session, names: readonly string[], o: Selection & { force?: boolean }): Promise<void> {
  const daemon = await s.daemon();
  const refs = await selectVms(s, names, o, ['running']);
  await forEachVm(s, refs, (ref) => daemon.post(vmPath(ref, '/reboot'), { force: o.force ?? false }, s.out.reporting(`${ref}: `)));
  s.out.done({});
}
