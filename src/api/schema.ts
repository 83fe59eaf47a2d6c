/** The request bodies as zod schemas, each checked against its plain type in types.ts at compile time. */
import { z } from '@hono/zod-openapi';
import type { CreateRequest, ModifyRequest, MountRequest, NetworkCardRequest, RuleRequest, TagRequest } from './types.ts';

const text = (max: number) => z.string().max(max);
const CPU_RANGE = 'must be a whole number from 1 to 64';
/** Characters; the daemon bounds its bytes. */
const MAX_FILTER_TEXT = 65_536;
const VLAN_RANGE = 'must be a whole number from 1 to 4094';

function port(low: number) {
  const range = `must be a whole number from ${low} to 65535`;
  return z.number().int(range).min(low, range).max(65_535, range);
}

export const createSchema = z
  .strictObject({
    name: text(256),
    ram_size: text(32).optional(),
    cpu_count: z.number().int(CPU_RANGE).min(1, CPU_RANGE).max(64, CPU_RANGE).optional(),
    disk_size: text(32).optional(),
    app: text(4096).optional(),
  })
  .openapi('CreateRequest');

export const modifySchema = z
  .strictObject({
    name: text(256).optional(),
    ram_size: text(32).optional(),
    cpu_count: z.number().int(CPU_RANGE).min(1, CPU_RANGE).max(64, CPU_RANGE).optional(),
    disk_size: text(32).optional(),
    labels: z.record(text(256), text(4096).nullable()).optional(),
  })
  .openapi('ModifyRequest');

export const tagSchema = z.strictObject({ tag: text(256), description: text(4096).optional(), force: z.boolean().optional() }).openapi('TagRequest');

export const cardSchema = z
  .strictObject({
    type: z.enum(['shared', 'host', 'bridge', 'bridged', 'disconnected'], { error: 'must be one of shared, host, bridge, disconnected' }).optional(),
    bridge: text(64).optional(),
    mac: text(64).nullable().optional(),
    controller: z.enum(['virtio-net', 'e1000', 'anet'], { error: 'must be one of virtio-net, e1000' }).optional(),
    isolated: z.boolean().optional(),
    filter: text(MAX_FILTER_TEXT).nullable().optional(),
    ip: text(64).optional(),
    vlan: z.number().int(VLAN_RANGE).min(1, VLAN_RANGE).max(4094, VLAN_RANGE).nullable().optional(),
  })
  .openapi('NetworkCardRequest');

export const ruleSchema = z
  .strictObject({
    name: text(256),
    guest_port: port(1),
    host_port: port(0).optional(),
    host_ip: text(64).optional(),
    protocol: z.enum(['tcp', 'udp'], { error: 'must be tcp or udp' }).optional(),
  })
  .openapi('RuleRequest');

export const mountSchema = z
  .strictObject({
    directory: text(4096),
    name: text(256).optional(),
    read_only: z.boolean().optional(),
    persistent: z.boolean().optional(),
  })
  .openapi('MountRequest');

export const forceSchema = z.strictObject({ force: z.boolean().optional() });
export const cloneSchema = z.strictObject({ name: text(256), tag: text(256).optional() });
export const restoreSchema = z.strictObject({ tag: text(256) });
export const renameSchema = z.strictObject({ name: text(256) });
export const waitSchema = z.strictObject({ until: z.enum(['ip', 'stopped']).optional(), timeout: z.number().min(0).max(86_400).optional() });
export const valueSchema = z.strictObject({ value: text(MAX_FILTER_TEXT) });
export const emptySchema = z.strictObject({});

/** Does not compile when a schema differs from its type. */
type Same<A, B> = [A] extends [B] ? true : never;
type Loose<T> = { [K in keyof T]: T[K] | undefined };
const checkedAgainstTypes: [
  Same<z.infer<typeof createSchema>, Loose<CreateRequest>>,
  Same<z.infer<typeof modifySchema>, Loose<ModifyRequest>>,
  Same<z.infer<typeof cardSchema>, Loose<NetworkCardRequest>>,
  Same<z.infer<typeof ruleSchema>, Loose<RuleRequest>>,
  Same<z.infer<typeof tagSchema>, Loose<TagRequest>>,
  Same<z.infer<typeof mountSchema>, Loose<MountRequest>>,
] = [true, true, true, true, true, true];
void checkedAgainstTypes;
