/** `anka start`, `stop`, `suspend` and `reboot`. */
import type { VmShow } from '../../api/types.ts';
import { pairs } from '../output/grid.ts';
import { type Session, vmPath } from '../session.ts';
import { forEachVm, type Selection, selectVms } from './selection.ts';

export async function start(s: Session, names: readonly string[], o: Selection): Promise<void> {
  const daemon = await s.daemon();
  const refs = await selectVms(s, names, o, ['stopped', 'suspended', 'failed']);
  const body = await forEachVm(s, refs, (ref) =>
    daemon.post<VmShow>(
      vmPath(ref, '/start'),
      {},
      // a rule that got another host port stays on the screen
      { onProgress: (p) => (p.step.startsWith('rule ') ? s.out.note(p.step) : s.out.progress(`${ref}: ${p.step}`, p.fraction)) },
    ),
  );
  if (refs.length !== 1) return s.out.done({}, `started ${refs.length} VMs`);
  const vm = body as VmShow;
  s.out.done(
    vm,
    pairs([
      ['uuid', vm.uuid],
      ['name', vm.name],
      ['status', vm.status],
    ]),
  );
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
