/** Messages of sendmsg(2) and recvmsg(2) with one buffer. */
import { declareOnce } from './koffi.ts';

/** struct msghdr */
export interface Message {
  name: Uint8Array | null;
  nameLength: number;
  buffers: { base: Uint8Array; length: number };
  bufferCount: number;
  control: Uint8Array;
  controlLength: number;
  flags: number;
}

/** Makes `anka_msghdr` known to koffi; call it before declaring a function that takes one. */
export const declareMessage = declareOnce(({ koffi }) => {
  koffi.struct('anka_iovec', { base: 'uint8_t *', length: 'size_t' });
  return koffi.struct('anka_msghdr', {
    name: 'uint8_t *',
    nameLength: 'uint32_t',
    buffers: 'anka_iovec *',
    bufferCount: 'size_t',
    control: 'uint8_t *',
    controlLength: 'size_t',
    flags: 'int',
  });
});

export function message(name: Uint8Array | null, payload: Uint8Array, control: Uint8Array): Message {
  return {
    name,
    nameLength: name?.length ?? 0,
    buffers: { base: payload, length: payload.length },
    bufferCount: 1,
    control,
    controlLength: control.length,
    flags: 0,
  };
}
