/* Offloads of a network card: cut large packets into frames, and join frames of one stream. TCP over IPv4 only. */
#include <linux/virtio_net.h>
#include <stddef.h>
#include <stdint.h>

enum {
  /* Bytes of the largest packet from the guest's kernel: 65535 bytes of IP and the Ethernet header, rounded up. */
  PACKET = 65536 + 14,
  /* Bytes of the frames of one such packet at most, each with its length prefix. */
  FRAMES = 1 << 20
};

/* Writes the frames of `packet` to `out`. Each has a big-endian length prefix of four bytes and valid checksums; only
 * the last keeps FIN and PSH. Returns the number of bytes. */
size_t cut(const struct virtio_net_hdr *h, const uint8_t *packet, size_t length, uint8_t *out);

/* Fills in the checksum that the guest's kernel leaves to its card. */
void seal(const struct virtio_net_hdr *h, uint8_t *packet, size_t length);

/* Passes a frame to the guest: joined to the previous ones if GRO allows it, else written after them. The caller keeps
 * `frame` unchanged until `join_end`. */
void join(int tap, uint8_t *frame, size_t length);

/* Flushes the packet under construction. */
void join_end(int tap);
