/** `anka show` and `anka describe`: one VM, as it is now or as it is stored (B82). */
import type { ShownAddress, ShownTag, VmDescribe, VmShow } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { grid, pairs } from '../output/grid.ts';
import { type Session, vmPath } from '../session.ts';

const PROPERTIES = [
  'uuid',
  'name',
  'creation_date',
  'access_date',
  'version',
  'cpu_cores',
  'ram',
  'ram_size',
  'hard_drive',
  'image_id',
  'image_size',
  'status',
  'message',
  'ip',
  'mac',
  'network',
  'port_forwarding',
  'inactive_rules',
];
const NETWORK_PROPERTIES = ['type', 'bridge', 'ip', 'mac', 'inside_mac', 'address_source', 'addresses', 'healthy', 'limit', 'filter'];

/** Whether the words name a property: `ip`, `uuid`, `network ip`, … */
function isProperty(words: readonly string[]): boolean {
  const [first, second, ...rest] = words as [string, ...string[]];
  if (rest.length > 0) return false;
  return second === undefined ? PROPERTIES.includes(first) : first === 'network' && NETWORK_PROPERTIES.includes(second);
}

function propertyOf(vm: VmShow, words: readonly string[]): unknown {
  let value: unknown = vm;
  for (const w of words) value = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[w] : undefined;
  return value;
}

/** What is said of a property that a VM does not have at the moment, where its name does not say it. */
const ABSENT: Readonly<Record<string, string>> = { ip: 'no IP address yet', mac: 'no MAC address yet', version: 'no local tag' };

/** Properties that other versions of Anka have, besides those of `VmShow`: body and text. */
const VIEWS: Readonly<Record<string, (vm: VmShow, word: string | undefined) => { body: unknown; text: string }>> = {
  cpu: (vm, word) => fields({ cores: vm.cpu_cores }, word),
  disk: (vm, word) =>
    fields({ size: vm.hard_drive, data_size: vm.image_size, controller: 'virtio-blk' }, word, {
      size: humanBytes(vm.hard_drive),
      data_size: humanBytes(vm.image_size),
    }),
  port: (vm) => ({ body: vm.port_forwarding, text: rulesTable(vm) }),
  label: (vm, word) => {
    const labels = vm.labels ?? {};
    if (word !== undefined) return { body: demand(labels[word], `no label '${word}'`), text: String(labels[word]) };
    return { body: labels, text: Object.keys(labels).length === 0 ? '' : pairs(Object.entries(labels)) };
  },
  description: () => ({ body: '', text: '' }),
  display: () => ({ body: [], text: '' }),
  usb: () => ({ body: [], text: '' }),
};

/** One field, or all. `texts`: for people. */
function fields(all: Record<string, string | number>, word: string | undefined, texts: Record<string, string> = {}): { body: unknown; text: string } {
  const text = (key: string): string => texts[key] ?? String(all[key]);
  if (word === undefined) return { body: all, text: pairs(Object.keys(all).map((k) => [k, text(k)])) };
  if (all[word] === undefined) throw new AnkaError('usage', `No such property '${word}'. Properties are ${Object.keys(all).join(', ')}.`);
  return { body: all[word], text: text(word) };
}

function demand<T>(value: T | undefined, absent: string): T {
  if (value === undefined) throw new AnkaError('badState', absent);
  return value;
}

export interface ShowOptions {
  tag?: string;
  current?: boolean;
}

export async function show(s: Session, ref: string, words: readonly string[], o: ShowOptions = {}): Promise<void> {
  if (words.length === 1 && words[0] === 'mount') return (await import('./mount.ts')).showMounts(s, ref);
  const daemon = await s.daemon();
  if (words[0] === 'tag' && words.length === 1) return showTags(s, await daemon.get<ShownTag[]>(vmPath(ref, '/tags')), o.current ?? false);
  const vm = withTag(await daemon.get<VmShow>(vmPath(ref)), o.tag === undefined ? null : await daemon.get<ShownTag[]>(vmPath(ref, '/tags')), o.tag);
  if (words.length === 0) return s.out.done(vm, showText(vm));
  const [first, second] = words as [string, string?];
  const view = words.length <= 2 ? VIEWS[first] : undefined;
  if (view) {
    const { body, text } = view(vm, second);
    return s.out.done(body, text);
  }
  if (!isProperty(words))
    throw new AnkaError(
      'usage',
      `No such property '${words.join(' ')}'. Properties are ${[...PROPERTIES, ...Object.keys(VIEWS), 'tag', 'mount'].join(', ')}, and 'network' followed by ${NETWORK_PROPERTIES.join(', ')}.`,
    );
  const value = propertyOf(vm, words);
  if (typeof value === 'object' && value !== null)
    return s.out.done(
      value,
      Array.isArray(value)
        ? words[1] === 'addresses'
          ? addressTable(vm)
          : rulesTable(vm)
        : pairs(Object.entries(value).map(([k, v]) => [k, propertyText(k, v)])),
    );
  const last = words.at(-1) as string;
  s.out.done(demand(value, ABSENT[last] ?? `no ${last.replaceAll('_', ' ')}`), String(value));
}

/** `show VM tag`: clients take the first one as the VM's tag, so the current one comes first. */
function showTags(s: Session, tags: readonly ShownTag[], current: boolean): void {
  const sorted = [...tags.filter((t) => t.current), ...(current ? [] : tags.filter((t) => !t.current))];
  s.out.done(sorted, sorted.map((t) => t.tag).join('\n'));
}

/** The VM as a tag has saved it. */
function withTag(vm: VmShow, tags: readonly ShownTag[] | null, name: string | undefined): VmShow {
  if (tags === null) return vm;
  const tag = tags.find((t) => t.tag === name);
  if (!tag)
    throw new AnkaError('tagNotFound', `${vm.name} has no local tag '${name}'${tags.length > 0 ? `; its tags are ${tags.map((t) => t.tag).join(', ')}` : ''}`);
  const { cpu_cores, ram, ram_size, hard_drive } = tag;
  return { ...vm, version: tag.tag, creation_date: tag.created, cpu_cores, ram, ram_size, hard_drive, image_size: tag.size };
}

/** `show VM network -f`. */
export async function showFilter(s: Session, ref: string, words: readonly string[]): Promise<void> {
  if (words.length !== 1 || words[0] !== 'network') throw new AnkaError('usage', `Option '-f' needs the property network: use 'anka show ${ref} network -f'.`);
  const filter = (await (await s.daemon()).get<VmShow>(vmPath(ref))).network?.filter ?? '';
  s.out.done(filter, filter);
}

function propertyText(key: string, value: unknown): string {
  if (key === 'filter') return filterSummary(String(value));
  return Array.isArray(value) ? value.map((a: ShownAddress) => a.ip).join(', ') : String(value);
}

/** How many rules a filter has. */
function filterSummary(text: string): string {
  const rules = text.split('\n').filter((line) => line.replace(/#.*/, '').trim() !== '').length;
  return rules === 1 ? '1 rule' : `${rules} rules`;
}

function rulesTable(vm: VmShow): string {
  return grid(
    ['guest_port', 'host_port', 'protocol', 'name', 'host_ip'],
    vm.port_forwarding.map((r) => [r.guest_port, r.host_port, r.protocol, r.name, r.host_ip]),
  );
}

function addressTable(vm: VmShow): string {
  return grid(
    ['address', 'source', 'age', 'last_arp'],
    (vm.network?.addresses ?? []).map((a) => [a.ip, a.source, `${a.age} s`, a.last_arp === undefined ? '' : `${a.last_arp} s`]),
  );
}

function humanBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let power = 0;
  let value = bytes;
  while (value >= 1024 && power < units.length - 1) {
    value /= 1024;
    power++;
  }
  return `${power === 0 || Number.isInteger(value) ? value : value.toFixed(1)} ${units[power]}`;
}

/** `show` for people: the VM, its network, and its rules as the seed page prints them. */
function showText(vm: VmShow): string {
  const rows: [string, string][] = [
    ['uuid', vm.uuid],
    ['name', vm.version === undefined ? vm.name : `${vm.name} (${vm.version})`],
    ['creation_date', vm.creation_date.slice(0, 19).replace('T', ' ')],
    ['cpu_cores', String(vm.cpu_cores)],
    ['ram', vm.ram],
    ['hard_drive', `${humanBytes(vm.hard_drive)} (${humanBytes(vm.image_size)} on disk)`],
    ['status', vm.status],
  ];
  if (vm.message) rows.push(['message', vm.message]);
  if (vm.ip) rows.push(['ip', vm.ip]);
  if (vm.mac) rows.push(['mac', vm.mac]);
  const sections = [pairs(rows)];
  if (vm.network) sections.push(`network\n\n${networkTable(vm.network, vm.status === 'running')}`);
  if (vm.network?.addresses) sections.push(`addresses\n\n${addressTable(vm)}`);
  if (vm.port_forwarding.length > 0) sections.push(`port_forwarding\n\n${rulesTable(vm)}`);
  if (vm.labels) sections.push(`labels\n\n${pairs(Object.entries(vm.labels))}`);
  if (vm.inactive_rules) {
    const rules = vm.inactive_rules.map((r) => [r.name, r.reason] as const);
    sections.push(`inactive port_forwarding rules\n\n${grid(['name', 'reason'], rules)}`);
  }
  return sections.join('\n\n');
}

function networkTable(network: NonNullable<VmShow['network']>, running: boolean): string {
  const rows: [string, string][] = [['type', network.type]];
  if (network.bridge) rows.push(['bridge', network.bridge]);
  if (network.inside_mac) rows.push(['inside_mac', network.inside_mac]);
  if (network.address_source) rows.push(['address', network.address_source]);
  if (running) rows.push(['healthy', network.healthy ? 'yes' : 'no']);
  if (network.limit) rows.push(['limit', network.limit]);
  if (network.filter) rows.push(['filter', filterSummary(network.filter)]);
  return pairs(rows);
}

export async function describe(s: Session, ref: string): Promise<void> {
  const vm = await (await s.daemon()).get<VmDescribe>(vmPath(ref, '/config'));
  s.out.done(vm, JSON.stringify(vm, null, 2));
}
