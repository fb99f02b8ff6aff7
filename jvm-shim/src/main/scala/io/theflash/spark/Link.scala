package io.theflash.spark

import java.io.{EOFException, IOException}
import java.net.{InetSocketAddress, Socket, SocketAddress, SocketTimeoutException}
import java.nio.ByteBuffer
import java.nio.channels.{SelectionKey, Selector, SocketChannel}
import java.util.concurrent.TimeUnit.NANOSECONDS

import javax.net.ssl.{SSLContext, SSLSocket}

/** A connected socket. Every send and receive ends by a time of `System.nanoTime`.
  *
  * Raises, besides the socket's own errors, `SocketTimeoutException` after the deadline and
  * `EOFException` if the peer has closed the connection.
  */
private[spark] trait Link {

  /** Fill `buffer`. */
  def receive(buffer: ByteBuffer, deadline: Long): Unit

  /** Send what is in `buffer`. */
  def send(buffer: ByteBuffer, deadline: Long): Unit

  def close(): Unit
}

private[spark] object Link {
  def millisLeft(deadline: Long): Int = {
    val left = NANOSECONDS.toMillis(deadline - System.nanoTime())
    if (left <= 0) throw new SocketTimeoutException("nothing came in time")
    math.min(left, Int.MaxValue.toLong).toInt
  }
}

/** Link over a unix socket or TCP. */
private[spark] final class ChannelLink(channel: SocketChannel) extends Link {
  private val selector = Selector.open()
  channel.configureBlocking(false)
  private val key = channel.register(selector, 0)

  override def receive(buffer: ByteBuffer, deadline: Long): Unit =
    while (buffer.hasRemaining) {
      val count = channel.read(buffer)
      if (count < 0) throw new EOFException("the connection was closed")
      if (count == 0) await(SelectionKey.OP_READ, deadline)
    }

  override def send(buffer: ByteBuffer, deadline: Long): Unit =
    while (buffer.hasRemaining)
      if (channel.write(buffer) == 0) await(SelectionKey.OP_WRITE, deadline)

  override def close(): Unit =
    try selector.close()
    finally channel.close()

  def connect(address: SocketAddress, deadline: Long): Unit =
    if (!channel.connect(address))
      while (!channel.finishConnect()) await(SelectionKey.OP_CONNECT, deadline)

  private def await(interest: Int, deadline: Long): Unit = {
    if (Thread.currentThread().isInterrupted) throw new IOException("interrupted")
    key.interestOps(interest)
    val _ = selector.select(Link.millisLeft(deadline).toLong)
    selector.selectedKeys().clear()
  }
}

/** Link over TLS. Java's sockets have no timeout for sending, so a background task closes them. */
private[spark] final class TlsLink(socket: SSLSocket) extends Link {
  private val input = socket.getInputStream
  private val output = socket.getOutputStream
  private var scratch = new Array[Byte](1 << 16)

  override def receive(buffer: ByteBuffer, deadline: Long): Unit =
    while (buffer.hasRemaining) {
      socket.setSoTimeout(Link.millisLeft(deadline))
      val wanted = math.min(buffer.remaining(), scratch.length)
      val count = input.read(scratch, 0, wanted)
      if (count < 0) throw new EOFException("the connection was closed")
      val _ = buffer.put(scratch, 0, count)
    }

  override def send(buffer: ByteBuffer, deadline: Long): Unit = {
    val bytes = new Array[Byte](buffer.remaining())
    val _ = buffer.get(bytes)
    val watchman = Background.in(Link.millisLeft(deadline).toLong)(() => socket.close())
    try {
      output.write(bytes)
      output.flush()
    } finally { val _ = watchman.cancel(false) }
  }

  override def close(): Unit = {
    scratch = Array.emptyByteArray
    socket.close()
  }
}

private[spark] object TlsLink {

  /** Connect and shake hands; the server's certificate must be for `host`. */
  def connect(context: SSLContext, host: String, port: Int, timeoutMs: Int): TlsLink = {
    val plain = new Socket()
    try {
      plain.connect(new InetSocketAddress(host, port), timeoutMs)
      plain.setTcpNoDelay(true)
      val made = context.getSocketFactory.createSocket(plain, host, port, true)
      val socket = made.asInstanceOf[SSLSocket]
      val parameters = socket.getSSLParameters
      parameters.setEndpointIdentificationAlgorithm("HTTPS")
      parameters.setProtocols(Array("TLSv1.3", "TLSv1.2"))
      socket.setSSLParameters(parameters)
      socket.setSoTimeout(timeoutMs)
      socket.startHandshake()
      new TlsLink(socket)
    } catch {
      case error: Throwable =>
        plain.close()
        throw error
    }
  }
}
