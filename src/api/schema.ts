/** What the API accepts, as zod schemas; each is checked against its plain type in types.ts at compile time. */
import { z } from '@hono/zod-openapi';
import type { CreateRequest, ModifyRequest, NetworkCardRequest, RuleRequest } from './types.ts';

const text = (max: number) => z.string().max(max);
const port = (low: number) =>
  z
    .number()
    .int(`must be a whole number from ${low} to 65535`)
    .min(low, `must be a whole number from ${low} to 65535`)
    .max(65_535, `must be a whole number from ${low} to 65535`);

export const createSchema = z
  .strictObject({
    name: text(256),
    ram_size: text(32).optional(),
    cpu_count: z.number().int().min(1, 'must be from 1 to 64').max(64, 'must be from 1 to 64').optional(),
    disk_size: text(32).optional(),
    app: text(4096).optional(),
  })
  .openapi('CreateRequest');

export const modifySchema = z
  .strictObject({
    name: text(256).optional(),
    ram_size: text(32).optional(),
    cpu_count: z.number().int().min(1, 'must be from 1 to 64').max(64, 'must be from 1 to 64').optional(),
  })
  .openapi('ModifyRequest');

export const cardSchema = z
  .strictObject({
    type: z.enum(['shared', 'host', 'bridge', 'bridged', 'disconnected'], { error: 'must be one of shared, host, bridge, disconnected' }).optional(),
    bridge: text(64).optional(),
    mac: text(64).nullable().optional(),
    controller: z.enum(['virtio-net', 'e1000', 'anet'], { error: 'must be one of virtio-net, e1000' }).optional(),
    isolated: z.boolean().optional(),
    ip: text(64).optional(),
    vlan: z.number().int().min(1, 'must be from 1 to 4094').max(4094, 'must be from 1 to 4094').nullable().optional(),
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

export const forceSchema = z.strictObject({ force: z.boolean().optional() });
export const cloneSchema = z.strictObject({ name: text(256) });
export const waitSchema = z.strictObject({ until: z.enum(['ip', 'stopped']).optional(), timeout: z.number().min(0).max(86_400).optional() });
export const valueSchema = z.strictObject({ value: text(1024) });
export const emptySchema = z.strictObject({});

/** Fails to compile when a schema and its type part. */
type Same<A, B> = [A] extends [B] ? true : never;
type Loose<T> = { [K in keyof T]: T[K] | undefined };
const checkedAgainstTypes: [
  Same<z.infer<typeof createSchema>, Loose<CreateRequest>>,
  Same<z.infer<typeof modifySchema>, Loose<ModifyRequest>>,
  Same<z.infer<typeof cardSchema>, Loose<NetworkCardRequest>>,
  Same<z.infer<typeof ruleSchema>, Loose<RuleRequest>>,
] = [true, true, true, true];
void checkedAgainstTypes;
