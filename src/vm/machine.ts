/** The interface between the daemon and QEMU: a machine, its specification, and the runner (launch.ts). */
import type { NicBackend } from '../engine/engine.ts';

/** QEMU's accelerator. */
export type Accelerator = 'kvm' | 'hvf' | 'tcg';

export type Boot =
  /** QEMU loads kernel and initrd; the disk has no boot loader. */
  | { kind: 'direct'; kernel: string; initrd: string; append: string }
  /** The firmware starts the disk's boot loader. `seed`: a NoCloud image. */
  | { kind: 'firmware'; seed?: string };

/** Where a machine is, and whose. */
export interface MachineFiles {
  uuid: string;
  /** Directory of disk and saved memory. */
  stateDir: string;
  /** Directory of sockets and logs (`machineFiles`). */
  runDir: string;
  /** User that QEMU runs as; the caller's own if it is not root. */
  uid: number;
}

export interface MachineSpec extends MachineFiles {
  name: string;
  /** MiB. */
  ram: number;
  cpus: number;
  /** qcow2 file. */
  disk: string;
  /** Bytes that the guest sees. */
  diskSize: number;
  boot: Boot;
  /** null: no card. MTU in bytes. */
  nic: { insideMac: number; controller: 'virtio-net' | 'e1000'; linkUp: boolean; mtu: number } | null;
  /** Group that QEMU runs as. */
  gid: number;
  accel: Accelerator;
  /** Saved memory to resume from; removed once loaded, before the CPUs run. */
  resumeFrom?: string;
}

/** Why QEMU exited. */
export interface MachineExit {
  /** `guest-shutdown`: powered off by the guest. `quit`: stopped by the daemon. `crash`: anything else. */
  cause: 'guest-shutdown' | 'quit' | 'crash';
  /** For `crash`: a sentence with the last lines of qemu.log. */
  reason: string;
}

export interface Machine {
  readonly uuid: string;
  readonly pid: number;
  /** QEMU's run state; `paused` also while memory is being saved. */
  status(): Promise<'running' | 'paused'>;
  /** Presses the ACPI power button. Does not wait for the guest. */
  powerDown(): Promise<void>;
  /** Stops QEMU at once. Resolves when it has exited. */
  quit(): Promise<void>;
  /** Hard reset. */
  reset(): Promise<void>;
  /** Sets the link of the guest's card up or down. */
  setLink(up: boolean): Promise<void>;
  /** Removes the card by PCI hotplug, and then its backend. */
  removeCard(): Promise<void>;
  /** Adds a card with a new backend by PCI hotplug. The guest must have none. */
  addCard(nic: NonNullable<MachineSpec['nic']>, backend: NicBackend): Promise<void>;
  hasCard(): Promise<boolean>;
  /** Saves memory to `file`, under another name first, and stops QEMU. */
  suspendTo(file: string, onProgress?: (fraction: number) => void): Promise<void>;
  /** Copies the disk's present content into `file`, an empty overlay of the same image. The guest keeps running. */
  copyDisk(file: string): Promise<void>;
  /** Cancels the copy or save that a previous daemon had started. The guest stays running or paused. */
  cancelJobs(): Promise<void>;
  /** Resumes a paused guest. */
  unpause(): Promise<void>;
  /** Closes the QMP connection; the guest keeps running. */
  detach(): void;
  /** Resolves when QEMU has exited, for any cause; never after `detach`. */
  readonly exited: Promise<MachineExit>;
}

export interface MachineRunner {
  accelerator(): Promise<Accelerator>;
  /** Starts QEMU; resolves when the guest's CPUs run. Throws with the last lines of qemu.log. */
  launch(spec: MachineSpec, backend: NicBackend | null, onProgress?: (fraction: number) => void): Promise<Machine>;
  /** The machine that runs; null if none does. Throws if it does not answer on its socket. */
  adopt(files: MachineFiles): Promise<Machine | null>;
  /** Whether the machine has a process. */
  isRunning(files: MachineFiles): Promise<boolean>;
  /** Throws `badState` while the machine has a process, or another process uses its disk. */
  demandStopped(files: MachineFiles, name: string): Promise<void>;
  /** Kills the machine's process, if there is one. Throws `badState` while another process uses its disk. */
  kill(files: MachineFiles): Promise<void>;
  /**
   * Root: lets QEMU's user change the disk only, a file of this name. Throws `noRights` if a file is not the VM's.
   */
  secure(files: MachineFiles, disk?: string): void;
}

/** Progress of a long operation: a step, and a fraction from 0 to 1 if it is known. */
export type Progress = (step: string, fraction?: number) => void;

/** The built-in guest. */
export interface BaseImage {
  disk: string;
  kernel: string;
  initrd: string;
  append: string;
  /** Private ssh key for the guest's user anka; created with the image. */
  identityFile: string;
}
