package io.theflash.spark

import java.io.ByteArrayInputStream
import java.nio.charset.StandardCharsets.US_ASCII
import java.security.cert.{Certificate, CertificateFactory}
import java.security.spec.PKCS8EncodedKeySpec
import java.security.{GeneralSecurityException, KeyFactory, KeyStore, PrivateKey}
import java.util.Base64

import scala.jdk.CollectionConverters._
import scala.util.Try

import javax.net.ssl.{KeyManagerFactory, SSLContext, TrustManagerFactory}

/** TLS settings from PEM files, as in TiDB's components. */
private[spark] object Tls {
  private val Algorithms = Seq("EC", "RSA", "Ed25519")
  private val NoPassword = Array.emptyCharArray

  def context(material: TlsMaterial): SSLContext =
    try {
      val trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm)
      trust.init(trusted(certificates(material.ca)))
      val keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm)
      keys.init(own(material), NoPassword)
      val made = SSLContext.getInstance("TLS")
      made.init(keys.getKeyManagers, trust.getTrustManagers, null)
      made
    } catch {
      case _: GeneralSecurityException | _: IllegalArgumentException =>
        throw Errors.option("tls", "cannot use the certificates")
    }

  private def certificates(pem: String): Seq[Certificate] =
    CertificateFactory
      .getInstance("X.509")
      .generateCertificates(new ByteArrayInputStream(pem.getBytes(US_ASCII)))
      .asScala
      .toSeq

  private def trusted(authorities: Seq[Certificate]): KeyStore = {
    val store = empty()
    authorities.zipWithIndex.foreach { case (each, n) => store.setCertificateEntry(s"ca$n", each) }
    store
  }

  private def own(material: TlsMaterial): KeyStore = {
    val store = empty()
    for (cert <- material.cert; key <- material.key)
      store.setKeyEntry("own", privateKey(key), NoPassword, certificates(cert).toArray)
    store
  }

  private def empty(): KeyStore = {
    val store = KeyStore.getInstance(KeyStore.getDefaultType)
    store.load(null, NoPassword)
    store
  }

  /** Parses a key of `BEGIN PRIVATE KEY` (PKCS8), `BEGIN EC PRIVATE KEY` or `BEGIN RSA PRIVATE
    * KEY`.
    */
  private def privateKey(pem: String): PrivateKey = {
    val spec = new PKCS8EncodedKeySpec(
      section(pem, "PRIVATE KEY")
        .orElse(section(pem, "EC PRIVATE KEY").map(k => Der.pkcs8(Der.EcKey ++ Der.curve(k), k)))
        .orElse(section(pem, "RSA PRIVATE KEY").map(k => Der.pkcs8(Der.RsaKey, k)))
        .getOrElse(throw Errors.option("tls_key", "is no key in PEM's form that is not encrypted"))
    )
    Algorithms.iterator
      .flatMap(name => Try(KeyFactory.getInstance(name).generatePrivate(spec)).toOption)
      .nextOption()
      .getOrElse(throw Errors.option("tls_key", "is a key of an unknown kind"))
  }

  private def section(pem: String, name: String): Option[Array[Byte]] = {
    val begin = s"-----BEGIN $name-----"
    Option.when(pem.contains(begin)) {
      val body = pem.substring(pem.indexOf(begin) + begin.length).takeWhile(_ != '-')
      Base64.getMimeDecoder.decode(body)
    }
  }
}

/** Encoder of the DER elements that convert other key formats to PKCS8, which Java reads. */
private object Der {
  val EcKey: Array[Byte] = bytes(0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01)
  val RsaKey: Array[Byte] =
    bytes(0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00)
  private val Zero = bytes(0x02, 0x01, 0x00)

  /** SEQUENCE { 0, SEQUENCE { algorithm }, OCTET STRING { key } } */
  def pkcs8(algorithm: Array[Byte], key: Array[Byte]): Array[Byte] =
    item(0x30, Zero ++ item(0x30, algorithm) ++ item(0x04, key))

  /** The curve's name in SEQUENCE { 1, OCTET STRING, [0] { name }, ... }. */
  def curve(key: Array[Byte]): Array[Byte] =
    parts(parts(key).head._2)
      .collectFirst { case (0xa0, name) => name }
      .getOrElse(throw Errors.option("tls_key", "does not say which curve it is of"))

  private def parts(data: Array[Byte]): List[(Int, Array[Byte])] =
    if (data.length < 2) Nil
    else {
      val first = data(1) & 0xff
      val lengthBytes = if (first < 0x80) 0 else first - 0x80
      val length =
        if (first < 0x80) first
        else data.slice(2, 2 + lengthBytes).foldLeft(0)((sum, byte) => (sum << 8) | (byte & 0xff))
      val begin = 2 + lengthBytes
      if (lengthBytes > 2 || begin + length > data.length) Nil
      else (data(0) & 0xff, data.slice(begin, begin + length)) :: parts(data.drop(begin + length))
    }

  private def item(tag: Int, content: Array[Byte]): Array[Byte] = {
    val length = content.length
    val header =
      if (length < 0x80) bytes(tag, length)
      else if (length < 0x100) bytes(tag, 0x81, length)
      else bytes(tag, 0x82, length >> 8, length & 0xff)
    header ++ content
  }

  private def bytes(values: Int*): Array[Byte] = values.map(_.toByte).toArray
}
