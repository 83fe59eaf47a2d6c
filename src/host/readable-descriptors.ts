/**
 * Descriptors that Node cannot wait for, and that the kernel announces by SIGIO (ffi/signal-io.ts).
 *
 * Theory of operation: the signal does not say which descriptor can be read, so all of them are tried. Nothing runs,
 * and no thread waits, while nothing arrives. The handler does not keep the process running.
 *
 * Limits: Linux only. The handler stays installed, as the signal's default would end the process.
 */

export interface ReadableDescriptor {
  /** Reads what there is. May be called in vain. */
  read(): void;
  close(): void;
}

const open = new Set<ReadableDescriptor>();
let isInstalled = false;

function onSignal(): void {
  for (const descriptor of open) descriptor.read();
}

/** Installs the signal's handler. To be called before the kernel is asked to announce a descriptor. */
export function installSignalHandler(): void {
  if (isInstalled) return;
  isInstalled = true;
  process.on('SIGIO', onSignal);
  // the same signal by its other name: if it were the only listener, signal-exit (of execa) would kill our children
  process.on('SIGPOLL', () => {});
  // Node removes its handlers at exit, and the signal would end the process before its exit status is set
  process.on('exit', () => {
    for (const descriptor of open) descriptor.close();
  });
}

/** `read` is called once soon, as something may have arrived before, and then after each signal. */
export function addReadable(descriptor: ReadableDescriptor): void {
  open.add(descriptor);
  setImmediate(() => descriptor.read()).unref();
}

export function removeReadable(descriptor: ReadableDescriptor): void {
  open.delete(descriptor);
}
